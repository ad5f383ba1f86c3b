"""A small chat application on Qt, and the pattern for putting a model into a window of one's own.

    python -m edgeinfer.desktop [-m MODEL]

The pattern: one worker thread does whatever may wait (opening, downloading, reading a prompt, saving); an answer's text
gathers in a buffer that the window empties at its own pace, once for each frame or less; nothing that the window does
takes longer than a frame. Needs the extra ``[desktop]``. Importing this package loads no Qt.
"""
