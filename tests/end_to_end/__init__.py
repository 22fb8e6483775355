"""The main job as a node lives it: the real plugin process under the stand-in lightningd, and `backup-cli`."""
