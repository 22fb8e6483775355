"""The bytes of a backup, without any file: records, documents, compression, and what a torn end looks like."""
