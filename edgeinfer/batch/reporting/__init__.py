"""What runs of batch jobs cost, read from the metrics that each has left: figures, comparisons, pages.

`measured` reads a file of metrics, `figures` makes figures of it, `noise` says how far two runs differ beyond chance,
`shown` writes tables, pages and pictures. Computes no rows."""
