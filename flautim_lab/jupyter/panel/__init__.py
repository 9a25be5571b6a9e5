"""The panel: the screens of Flautim, as widgets in a notebook."""
