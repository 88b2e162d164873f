"""Keyturn in a Django project, and its checks of tokens there."""
