"""The check of the workflows in ``.github/workflows`` with actionlint."""
