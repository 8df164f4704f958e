
// Asking

let asking;

function tell(told, { uploads = [], note, alert = false } = {}) {
  rows('found', uploads, (row, upload) => drawUpload(row, upload, note));
  say({ told });
  $('told').classList.toggle('alert', alert);
}

/** Tells what the server's answer says: an upload, or an error with its advice. */
function tellAnswer(headers, { video, freshness, message }) {
  const seconds = name => Number(headers.get(name));
  if (!video) return tell(isolate(message) + (seconds('retry-after') ? ` (again in ${time(seconds('retry-after'))})` : ''), { alert: true });
  const since = (Date.parse(headers.get('date')) - Date.parse(video.publishTime)) / 1000;
  const ageSeconds = video.publishTime ? Math.max(0, since) : null;
  const source = freshness.source.replace('SOURCE_', '').replace('_', '-').toLowerCase();
  const lookedUp = seconds('age') ? `${time(seconds('age'))} ago` : 'just now';
  const note = `. Looked up ${lookedUp}${freshness.stale ? ' (stale)' : ''}. Source: ${SOURCES[source]}`;
  tell('', { uploads: [{ ...video, ageSeconds }], note });
}

async function askFor(name) {
  asking?.abort();
  const { signal } = asking = new AbortController();
  tell('Asking …');
  try {
    const headers = { 'x-plaque-page': '1' };
    const answer = await fetch(`ask?name=${encodeURIComponent(name)}`, { cache: 'no-store', headers, signal });
    const text = await answer.text();
    if (answer.headers.get('content-type') === 'application/json') tellAnswer(answer.headers, JSON.parse(text));
    else if (answer.status !== 404) tell(text, { alert: true });
    else tell('With --tls-client-ca, this port answers no questions. Use "plaque get" with a certificate.', { alert: true });
  } catch (error) {
    if (!signal.aborted) tell(`The server is out of reach: ${error.message}`, { alert: true });
  }
}

$('ask').addEventListener('submit', event => {
  event.preventDefault();
  askFor($('name').value.trim());
});
