"""An HTTP server over models: OpenAI's and Anthropic's APIs, for this machine alone unless told otherwise.

config     what can be chosen           guard      who may ask, and how much at once
app        all of it as an application  running    sockets and signals
api        one module for each API      workers    models, each in a process of its own
"""
