"""From a plan to a graph: each module replaces one abstract operator by others, in one way. Run by `variants`."""
