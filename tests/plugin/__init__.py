"""The plugin's parts by themselves."""
