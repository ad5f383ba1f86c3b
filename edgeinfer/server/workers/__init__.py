"""Models in processes of their own, and the server's end of them: a model that hangs or crashes takes nothing else with
it, and leaves no memory behind when it is unloaded. Knows no HTTP."""
