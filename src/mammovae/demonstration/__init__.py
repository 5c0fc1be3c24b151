"""The demo: every stage on phantoms, the original network beside the detecting ones, and a page that shows it all."""
