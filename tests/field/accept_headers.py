"""Accept headers that clients send by themselves, as public sources and captured requests show them."""

from typing import Final

PNG: Final = "image/png"

DEFAULTS: Final[dict[str, str | list[str] | None]] = {
    # Libraries and tools that send none, or the one that means none.
    "Java 11 HttpClient, OkHttp, Go, .NET HttpClient, Guzzle, Dart, Apps Script": None,
    "curl, requests, httpx, aiohttp, fetch, node-fetch, got, Ruby, Wget, Feign, Postman, Insomnia, Zapier, Make": "*/*",
    "a header that was set to nothing": "",
    # HTTP libraries.
    "Java's HttpURLConnection up to 17": "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2",
    "Java's HttpURLConnection, later": "text/html, image/gif, image/jpeg, */*; q=0.2",
    "axios, Angular's HttpClient": "application/json, text/plain, */*",
    "jQuery with dataType json": "application/json, text/javascript, */*; q=0.01",
    "jQuery with dataType html": "text/html, */*; q=0.01",
    "Spring's RestTemplate for a text": "text/plain, application/json, application/*+json, */*",
    "Spring's RestTemplate for bytes": "application/octet-stream, */*",
    "a program that saves what comes": "application/octet-stream",
    "Amazon's SDKs": "binary/octet-stream",
    "RestSharp 101": "application/json, application/xml, text/json, text/x-json, text/javascript, text/xml",
    "RestSharp 106": "application/json, text/json, text/x-json, text/javascript, *+json, application/xml, text/xml, "
    "*+xml, *",
    "RestSharp 108": "application/json, text/json, text/x-json, text/javascript, application/xml, text/xml",
    "rest-client 1 (Ruby)": "*/*; q=0.5, application/xml",
    "httr (R)": "application/json, text/xml, application/xml, */*",
    "Indy (Delphi)": "text/html, */*",
    "a generator of clients that lists what OpenAPI offers": "image/png,image/webp,image/jpeg,image/avif,"
    "application/json,application/zip,multipart/mixed",
    # Workflow tools.
    "n8n": "application/json,text/html,application/xhtml+xml,application/xml,text/*;q=0.9, image/*;q=0.8, */*;q=0.7",
    "n8n for a text": "application/json,text/html,application/xhtml+xml,application/xml,text/*;q=0.9, */*;q=0.1",
    # Browsers: a form, a link, a result opened in a tab.
    "Chrome 79 to today, Edge": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,"
    "image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7",
    "Chrome of 2018": "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,image/apng,*/*;q=0.8",
    "Firefox 132 and later, Safari": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Firefox 92 to 131": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Firefox 128": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/png,"
    "image/svg+xml,*/*;q=0.8",
    "Firefox 65 to 91": "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8",
    "Opera 12": "text/html, application/xml;q=0.9, application/xhtml+xml, image/png, image/webp, image/jpeg, "
    "image/gif, image/x-xbitmap, */*;q=0.1",
    "Edge 12 to 18, Internet Explorer 11": "text/html, application/xhtml+xml, image/jxr, */*",
    "Internet Explorer 8": "image/jpeg, application/x-ms-application, image/gif, application/xaml+xml, image/pjpeg, "
    "application/x-ms-xbap, */*",
    # Browsers: an <img>.
    "Chrome's <img>": "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8",
    "Chrome's <img> of 2018": "image/webp,image/apng,image/*,*/*;q=0.8",
    "Firefox's <img>": "image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5",
    "Firefox's <img>, 92 to 127": "image/avif,image/webp,*/*",
    "Firefox's <img>, 65 to 91": "image/webp,*/*",
    "Safari's <img>": "image/webp,image/avif,image/jxl,image/heic,image/heic-sequence,video/*;q=0.8,image/png,"
    "image/svg+xml,image/*;q=0.8,*/*;q=0.5",
    "Safari's <img>, up to 13": "image/png,image/svg+xml,image/*;q=0.8,video/*;q=0.8,*/*;q=0.5",
    "Internet Explorer 11's <img>": "image/png, image/svg+xml, image/jxr, image/*;q=0.8, */*;q=0.5",
    # A proxy that splits a header, or a client that adds a line to its library's.
    "two lines": ["text/html, image/webp", "*/*;q=0.8"],
}
"""Who → the header, its lines, or None where there is none. None of them asks for anything but the guide's PNG."""

WISHES: Final[dict[str, tuple[str, str]]] = {
    "curl -H": ("image/webp", "image/webp"),
    "Internet Explorer's names": ("image/x-png", "image/png"),
    "the same of JPEG": ("image/pjpeg", "image/jpeg"),
    "curl -H, with a way out": ("image/webp, */*;q=0.8", "image/webp"),
    "an app that shows AVIF, else JPEG": ("image/avif, image/jpeg;q=0.5", "image/avif"),
    "an old frame that shows JPEG only": ("image/jpeg", "image/jpeg"),
    "HTTPie, told that JSON is what it is about": ("application/json, */*;q=0.5", "application/json"),
    "Spring's RestTemplate for an object": ("application/json, application/*+json", "application/json"),
    "a generated client, which can read no picture": ("application/json", "application/json"),
    "n8n, told to expect JSON": ("application/json,text/*;q=0.99", "application/json"),
}
"""Who → the header, and the format that it asks for."""
