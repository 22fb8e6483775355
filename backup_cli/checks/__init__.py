"""What `check-config` looks at, one module for each subject."""
