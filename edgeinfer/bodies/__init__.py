"""Bodies of requests and answers as OpenAI's API writes them, for whoever takes them in: the server and batch jobs.

fields     what several bodies have in common    calls      tool calls in the text of an answer
chat       a conversation to answer              tools      tools for templates that know none
responses  something to respond to               output     a response as it grows
parts      log-probabilities, usage, words       formats    what an answer must look like

Knows no HTTP, no files, and no model: what is asked comes out as messages and options of `edgeinfer.LLM`. `fields`,
`chat` and `responses` need pydantic."""
