"""The channels as the YouTube Data API v3 shows them: what to answer, as a status and a message."""

import base64

from state import PLAYLIST, of_kind

REFUSALS = {
    "keyInvalid": (400, "usageLimits"), "accessNotConfigured": (403, "usageLimits"), "quotaExceeded": (403, "youtube.quota"),
    "rateLimitExceeded": (403, "youtube.quota"), "invalidFilters": (400, "youtube.parameter"), "invalidPageToken": (400, "youtube.parameter"), "notFound": (404, "global"),
    "playlistNotFound": (404, "youtube.playlistItem"),
}


def refusal(reason, status=None):
    usual, domain = REFUSALS.get(reason, (status, "global"))
    error = {"message": reason, "domain": domain, "reason": reason}
    return status or usual, {"error": {"code": status or usual, "message": reason, "errors": [error]}}


def answer(state, method, query, key):
    """Costs a unit, whatever the answer is."""
    ids = [one for value in query.get("id", ()) for one in value.split(",")]
    state.units += 1
    state.by_method[method] += 1
    state.ids += len(ids)
    if state.api_mode.startswith("status:"):
        return refusal("backendError", int(state.api_mode.removeprefix("status:")))
    if state.api_mode == "empty":
        return 200, {}
    if key != state.api_key:
        return refusal("keyInvalid")
    if state.api_mode != "ok":
        return refusal(state.api_mode)
    if state.units > state.api_quota:
        return refusal("quotaExceeded")
    if len(ids) > 50:
        return refusal("invalidFilters")
    if method == "channels":
        return channels(state, ids or [state.named(query[name][0]) for name in ("forHandle", "forUsername") if name in query])
    if method == "playlistItems":
        return playlist_items(state, query)
    if method == "videos":
        return videos(state, ids)
    return refusal("notFound")


def channels(state, ids):
    items = [{
        "kind": "youtube#channel", "id": channel.id, "snippet": {"title": channel.name, "customUrl": channel.handle.lower()},
        "contentDetails": {"relatedPlaylists": {"likes": "", "uploads": "UU" + channel.id[2:]}},
    } for channel in map(state.channel, filter(None, ids)) if channel]
    page = {"totalResults": len(items), "resultsPerPage": 5}
    # Without any, there is no list either.
    return 200, {"kind": "youtube#channelListResponse", "pageInfo": page} | ({"items": items} if items else {})


def playlist_items(state, query):
    playlist = PLAYLIST.fullmatch(query.get("playlistId", [""])[0])
    channel = playlist and state.channel("UC" + playlist.group(2))
    uploads = of_kind(channel.uploads, playlist.group(1)) if channel else []
    if not uploads:
        return refusal("playlistNotFound")
    place = query.get("pageToken", ["0"])[0]
    if not place.isdecimal():
        return refusal("invalidPageToken")
    first, size = int(place), min(50, int(query.get("maxResults", ["5"])[0]))
    items = [{
        "kind": "youtube#playlistItem", "id": base64.b64encode(upload.id.encode()).decode(),
        "snippet": snippet(channel, upload) | {
            "description": upload.description, "playlistId": playlist.group(0), "position": first + i,
            "resourceId": {"kind": "youtube#video", "videoId": upload.id},
            "videoOwnerChannelTitle": channel.name, "videoOwnerChannelId": channel.id},
        "contentDetails": {"videoId": upload.id, "videoPublishedAt": stamp(upload)},
    } for i, upload in enumerate(uploads[first:first + size])]
    more = {"nextPageToken": str(first + size)} if first + size < len(uploads) else {}
    page = {"totalResults": len(uploads), "resultsPerPage": size}
    return 200, {"kind": "youtube#playlistItemListResponse", **more, "items": items, "pageInfo": page}


def videos(state, ids):
    items = [{
        "kind": "youtube#video", "id": upload.id, "snippet": snippet(channel, upload) | {"liveBroadcastContent": "none"},
    } for channel, upload in filter(None, map(state.owner, ids))]
    page = {"totalResults": len(items), "resultsPerPage": len(items)}
    return 200, {"kind": "youtube#videoListResponse", "items": items, "pageInfo": page}


def snippet(channel, upload):
    picture = {"url": f"https://i.ytimg.com/vi/{upload.id}/hqdefault.jpg", "width": 480, "height": 360}
    return {"publishedAt": stamp(upload), "channelId": channel.id, "title": upload.title, "channelTitle": channel.name,
            "thumbnails": {"high": picture}}


def stamp(upload):
    return upload.published.isoformat().replace("+00:00", "Z")
