"""The interactive chat: a line editor, slash commands, an answer drawn as it comes. One conversation, one terminal."""
