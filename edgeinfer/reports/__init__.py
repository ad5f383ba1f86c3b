"""Reports as one HTML file each: no script, nothing fetched, light and dark as the reader's system has it.

`page` has the frame, tables and escaping; `chart` draws with SVG. Knows no figures and no models.
"""
