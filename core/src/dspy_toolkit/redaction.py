"""What may be shown and stored of a URI that may hold secrets."""

from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

__all__ = ["public_uri", "redact"]

_SECRET = ("password", "passwd", "pwd", "token", "secret", "key")


def public_uri(uri: str) -> str:
    """`uri` with stars for its login and for every secret in its query."""
    parts = urlsplit(uri)
    user, at, host = parts.netloc.rpartition("@")
    query = [(name, "***" if _is_secret(name) else value) for name, value in parse_qsl(parts.query)]
    if not user and all(value != "***" for _, value in query):
        return uri
    return urlunsplit(parts._replace(netloc=f"***{at}{host}" if user else host, query=urlencode(query, safe="*/")))


def redact(text: str, uri: str) -> str:
    """`text`, which may quote `uri` or a part of it, without the secrets that `uri` holds."""
    text = text.replace(uri, public_uri(uri))
    for secret in _secrets(uri):
        text = text.replace(secret, "***")
    return text


def _is_secret(name: str) -> bool:
    return any(word in name.lower() for word in _SECRET)


def _secrets(uri: str) -> list[str]:
    """Everything in `uri` that must not be seen, longest first, percent-encoded and decoded."""
    parts = urlsplit(uri)
    login = parts.netloc.rpartition("@")[0]
    secrets = [login, login.partition(":")[2] or login]
    secrets += [value for name, value in parse_qsl(parts.query) if _is_secret(name)]
    return sorted({form for secret in secrets if secret for form in (secret, unquote(secret))}, key=len, reverse=True)
