"""Legacy backups: files of the older plugin, with every fault that they are known to have."""
