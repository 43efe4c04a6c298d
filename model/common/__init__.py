"""The ground of every command: files, JSON, options, signals, devices and versions. Imports nothing of other rooms."""
