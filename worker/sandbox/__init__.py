"""Disposable processes that decode untrusted files and draw their visualizations."""
