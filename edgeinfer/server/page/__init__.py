"""The chat page at `/`: plain files that a browser reads as they are, and the few routes that they need besides the
APIs. Its conversations are those of `edgeinfer chat` and of the window."""

from edgeinfer.server.page.routes import router

__all__ = ["router"]
