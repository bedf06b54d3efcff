"""Starting a run: arguments, files of data, processes, the machine."""
