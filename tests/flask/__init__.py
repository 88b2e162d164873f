"""Keyturn in a Flask application, and its checks of tokens there."""
