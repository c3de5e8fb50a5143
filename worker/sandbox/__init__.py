"""Disposable processes in which files from strangers are decoded and their pictures drawn."""
