"""The main job as a node lives it: the real plugin process under the fake lightningd, and `backup-cli`."""
