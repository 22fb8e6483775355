#!/bin/bash
# Makes two PostgreSQL servers that hold the same, for backups of a node: a primary, and a standby that has confirmed
# every commit before the node goes on. As root, on Debian or Ubuntu with the package `postgresql`:
#
#   setup.sh primary --address ADDRESS                                 on the first machine: a new server, and all else
#   setup.sh standby --address ADDRESS --primary ADDRESS[:PORT] --passwords FILE
#                                                                      on the second one: a copy that follows the first
#   setup.sh promote                                                   on the second one, when the first is dead
#   setup.sh rejoin  --address ADDRESS --primary ADDRESS[:PORT]        on the dead one, when it is back: follows the other
#   setup.sh status                                                    on both: what they are
#
# ADDRESS is a name or an IP address by which the other machines reach this one (--address) or the primary (--primary).
# FILE holds the line that `setup.sh primary` has printed for it. Further options: --version 15, --cluster backup and
# --port 5432 name the server of this machine (or the variables CLUSTER and PORT); what follows -- is passed to
# pg_createcluster.
set -euo pipefail
script=$(realpath -- "$0") here=$PWD
cd /
export HOME=/nonexistent # that of the caller is closed to the servers' user, and holds files for other purposes

database=lightning role=lightning_backup schema=lightning_backup replicator=lightning_replication
command=${1-}
shift || true
version='' name=${CLUSTER:-backup} port=${PORT:-5432} address='' primary='' passwords=''
while (($# > 0)); do
    case $1 in
        --version) version=$2 ;;
        --cluster) name=$2 ;;
        --port) port=$2 ;;
        --address) address=$2 ;;
        --primary) primary=$2 ;;
        --passwords) passwords=$2 && [[ $2 == /* ]] || passwords=$here/$2 ;;
        --) shift && break ;;
        *) echo "there is no option $1; the first lines of this script list them" >&2 && exit 2 ;;
    esac
    shift 2
done

fail() {
    echo "$*" >&2
    exit 1
}

wanted() {
    local option
    for option in "$@"; do
        [[ -n ${!option} ]] || fail "$command needs --$option ADDRESS; the first lines of this script show how"
    done
}

if [[ -z $version ]]; then
    version=$(find /usr/lib/postgresql -mindepth 1 -maxdepth 1 -printf '%f\n' 2> /dev/null | sort -n | tail -n 1)
    [[ -n $version ]] || fail "PostgreSQL is not installed: apt install postgresql"
fi
programs=/usr/lib/postgresql/$version/bin
configuration=${PG_CLUSTER_CONF_ROOT:-/etc/postgresql}/$version/$name
replication=$configuration/replication.pgpass

# The server's own user, who alone may read its files.
owned() {
    local owner
    owner=$(stat -c %U -- "$configuration")
    if [[ $owner == "$(id -un)" ]]; then "$@"; else runuser -u "$owner" -- "$@"; fi
}

setting() {
    owned "$programs/postgres" -C "$1" -D "$configuration"
}

sql() {
    owned "$programs/psql" -XAtq -v ON_ERROR_STOP=1 -h "$(setting unix_socket_directories | cut -d, -f1)" -p "$port" \
        -d "$@"
}

create() {
    [[ ! -e $configuration ]] || fail "there is a server $version/$name already (pg_lsclusters); --cluster NAME names a new one"
    pg_createcluster --port "$port" "$@" "$version" "$name" > /dev/null
}

# Both servers are configured alike, so that each can be the primary.
configure() {
    local certificate=$configuration/server.crt key=$configuration/server.key
    if [[ ! -e $certificate ]]; then
        local kind=DNS
        [[ ! $address =~ ^[0-9.]+$|: ]] || kind=IP
        owned openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 7300 -subj "/CN=$address" \
            -addext "subjectAltName=$kind:$address" -keyout "$key" -out "$certificate" 2> /dev/null
        owned chmod 600 "$key"
    fi
    owned mkdir -p "$configuration/conf.d"
    owned tee "$configuration/conf.d/lightningd-backup.conf" > /dev/null << END
# Written by lightningd-backup's setup.sh. A commit is confirmed when the other server has it on its disk, too.
listen_addresses = '*'
synchronous_standby_names = '*'
synchronous_commit = on
wal_log_hints = on
wal_keep_size = 256MB
ssl = on
ssl_cert_file = '$certificate'
ssl_key_file = '$key'
END
    owned tee "$configuration/pg_hba.conf" > /dev/null << END
# Written by lightningd-backup's setup.sh. Everybody else is refused.
local    all          all          peer
hostssl  $database    $role        all  scram-sha-256
hostssl  replication  $replicator  all  scram-sha-256
END
}

new_password() {
    openssl rand -hex 24
}

keep_for_replication() {
    owned touch "$replication"
    owned chmod 600 "$replication"
    owned tee "$replication" > /dev/null <<< "$1"
}

stop() {
    pg_ctlcluster "$version" "$name" stop > /dev/null 2>&1 || true
    ! pg_ctlcluster "$version" "$name" status > /dev/null 2>&1 ||
        fail "the server $version/$name cannot be stopped; nothing was changed"
}

# A copy of the primary, in place of what this server had. $1: ADDRESS or ADDRESS:PORT of the primary.
follow() {
    local there=$1 at=${PRIMARY_PORT:-5432} data
    [[ $1 != *:* || $1 == *:*:* ]] || there=${1%:*} at=${1##*:} # more than one colon: an IPv6 address
    data=$(setting data_directory)
    owned rm -rf -- "$data.new"
    owned "$programs/pg_basebackup" -D "$data.new" -c fast -R --no-password \
        -d "host=$there port=$at user=$replicator application_name=$name sslmode=require passfile=$replication"
    # Only now, with a whole copy here, is the old one given up; it is kept until the next time.
    owned rm -rf -- "$data.old"
    owned mv -- "$data" "$data.old"
    owned mv -- "$data.new" "$data"
    configure
    pg_ctlcluster "$version" "$name" start
}

case $command in
    primary)
        wanted address
        create "$@"
        configure
        pg_ctlcluster "$version" "$name" start
        password=$(new_password) line="*:*:*:$replicator:$(new_password)"
        # Without a standby no commit would end. These need not wait: the standby begins as a copy of this server.
        export PGOPTIONS='-c synchronous_commit=local'
        sql postgres << END
CREATE ROLE $role LOGIN PASSWORD '$password';
CREATE ROLE $replicator LOGIN REPLICATION PASSWORD '${line##*:}';
CREATE DATABASE $database TEMPLATE template0 ENCODING 'UTF8';
REVOKE CONNECT, TEMPORARY ON DATABASE $database FROM PUBLIC;
GRANT CONNECT ON DATABASE $database TO $role;
END
        sql "$database" -c "CREATE SCHEMA $schema AUTHORIZATION $role"
        keep_for_replication "$line"
        cat << END
The primary runs. Next:
1. On the second machine: write this line to a file of root, and name it to: setup.sh standby --passwords FILE

$line

2. On the node: add this line to the file ~/.pgpass of the user that runs lightningd, and type: chmod 600 ~/.pgpass

*:*:$database:$role:$password
END
        ;;
    standby)
        wanted address primary passwords
        [[ $(< "$passwords") == *:$replicator:* ]] || fail "$passwords does not hold the line that setup.sh primary printed"
        [[ -e $configuration ]] || create "$@"
        keep_for_replication "$(< "$passwords")"
        stop
        follow "$primary"
        echo "The standby runs, and has what the primary has. On the primary, to see it: setup.sh status"
        ;;
    promote)
        [[ $(sql postgres -c 'SELECT pg_is_in_recovery()') == t ]] || fail "this server is the primary already"
        [[ $(sql postgres -c "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'") == 0 ]] ||
            fail "the primary is alive: this server receives from it at this moment. Stop the primary first"
        sql postgres -c 'SELECT pg_promote(true, 60)' > /dev/null
        echo "This server is the primary now. The node waits until a standby follows it. On the other machine, once it is"
        echo "back, type: setup.sh rejoin (or on a new one: setup.sh standby)."
        ;;
    rejoin)
        wanted address primary
        stop
        follow "$primary"
        echo "This server follows $primary now. What it had before is in $(setting data_directory).old"
        ;;
    status)
        if [[ $(sql postgres -c 'SELECT pg_is_in_recovery()') == t ]]; then
            echo "a standby, $(sql postgres -c "SELECT coalesce(min(status), 'not connected to the primary') FROM pg_stat_wal_receiver")"
        else
            echo "the primary; $(sql postgres -c "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND
                sync_state IN ('sync', 'quorum')") synchronous standby"
        fi
        ;;
    *)
        sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$script"
        exit 2
        ;;
esac
