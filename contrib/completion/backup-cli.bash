# bash completion for backup-cli. The answers come from the installed backup-cli itself, so a new command or option
# needs no new file.

_backup_cli_completion() {
    # bash ends a word at ":" and "=", and every URL has a ":". So join the parts again that no space separates.
    local -a words=()
    local rest=$COMP_LINE word blank i current=0
    for i in "${!COMP_WORDS[@]}"; do
        word=${COMP_WORDS[i]}
        blank=${rest%%[![:space:]]*}
        rest=${rest#"$blank"}
        rest=${rest#"$word"}
        if [[ -n $blank || $i -eq 0 ]]; then
            words+=("$word")
        else
            words[${#words[@]} - 1]+=$word
        fi
        if ((i == COMP_CWORD)); then
            current=$((${#words[@]} - 1))
        fi
    done

    local typed=${words[current]-} before
    before=${typed%"${typed##*[:=]}"}
    local IFS=$'\n' kind value
    while IFS=, read -r kind value; do
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                # bash replaces only what comes after the last ":" or "=".
                [[ $value != */ ]] || compopt -o nospace
                COMPREPLY+=("${value#"$before"}")
                ;;
        esac
    done < <(COMP_WORDS="${words[*]}" COMP_CWORD=$current _BACKUP_CLI_COMPLETE=bash_complete "$1")
}

complete -o nosort -F _backup_cli_completion backup-cli
