"""Text at the two ends of the path: chat template, tokenizer, streaming decoder. What lies between is integers."""

from edgeinfer.text.printable import printable
from edgeinfer.text.stream import StopMatcher, StreamDecoder
from edgeinfer.text.template import ChatTemplate
from edgeinfer.text.tokenizer import Codec, TokenIds, Tokenizer, Vocabulary

__all__ = ["ChatTemplate", "Codec", "StopMatcher", "StreamDecoder", "TokenIds", "Tokenizer", "Vocabulary", "printable"]
