// Gets the newest upload of a channel, then of several in a batch, and then watches them.
import { Code, ConnectError, createClient } from '@connectrpc/connect';
import { createGrpcWebTransport } from '@connectrpc/connect-web';

import { CodeSchema } from './gen/google/rpc/code_pb.js';
import { ErrorInfoSchema, RetryInfoSchema } from './gen/google/rpc/error_details_pb.js';
import { LatestVideo, VideoKindSchema } from './gen/plaque/v1/latest_video_pb.js';

// In milliseconds. Connect has no service config: a call that fails is told, with when to retry, and its user decides.
const DEADLINE = 10_000;

// A watch is resumed after these. Unknown: the browser lost the connection. Proxies answer Internal when they lose the server.
const TRANSIENT = [Code.Unavailable, Code.DeadlineExceeded, Code.Unknown, Code.Internal];

// In milliseconds, the pause before a watch is resumed. Doubles until an event arrives.
const [MIN_BACKOFF, MAX_BACKOFF] = [1_000, 15_000];

const args = new URLSearchParams(location.search);
const server = args.get('server') ?? 'http://127.0.0.1:3779';
const count = Number(args.get('events') ?? 10); // stop the watch after this many
const seconds = Number(args.get('seconds') ?? 60); // or after this many seconds
const channelIds = args.has('channel') ? args.getAll('channel') : ['UCsXVk37bltHxD1rDPwtNM8Q'];
const client = createClient(LatestVideo, createGrpcWebTransport({ baseUrl: server, defaultTimeoutMs: DEADLINE }));

const out = document.querySelector('pre');
const print = (line) => out.append(`${line}\n`);

async function get(channelId) {
  let headers;
  const { video } = await client.getLatestVideo({ channelId }, { onHeader: (received) => { headers = received; } });
  print(`latest: ${video.videoId} ${VideoKindSchema.value[video.kind].name} ${video.title}`);
  print(`cache-status: ${headers.get('cache-status')}`);
}

async function batch() {
  const { results } = await client.batchGetLatestVideos({ channelIds });
  // The call succeeds even if some of its channels fail.
  for (const { channelId, outcome } of results) print(`batch: ${channelId} ${summary(outcome)}`);
}

const summary = ({ case: kind, value }) => (kind === 'found' ? value.video.videoId : value.reason);

async function watch() {
  let left = count;
  for await (const { event, initial } of events(Date.now() + seconds * 1000)) {
    print(`watch: ${event.value.channelId} ${describe(event, initial)}`);
    // Leaving the loop ends the call.
    if (--left <= 0) break;
  }
}

// The events of a watch until `end`. Resumes the stream when it breaks.
async function* events(end) {
  const tokens = new Map();
  let backoff = MIN_BACKOFF;
  for (let left; (left = end - Date.now()) > 0;) {
    let delay = 0;
    try {
      const request = { channelIds, resumeTokens: [...tokens.values()] };
      for await (const message of client.watchLatestVideo(request, { timeoutMs: left })) {
        backoff = MIN_BACKOFF;
        // Ignores kinds of events that only newer servers have.
        if (!message.event.case) continue;
        yield message;
        // Stored only after the event was handled; otherwise it is sent again.
        if (message.resumeToken.length) tokens.set(message.event.value.channelId, message.resumeToken);
      }
    } catch (error) {
      delay = retryDelay(error);
      if (!delay && !TRANSIENT.includes(error.code)) throw error;
    }
    // With jitter, so that the clients of a stopped server do not all reconnect at once.
    const pause = Math.max(delay, backoff) * (1 + Math.random());
    backoff = Math.min(2 * backoff, MAX_BACKOFF);
    await new Promise((resolve) => setTimeout(resolve, Math.min(pause, end - Date.now())));
  }
}

function describe({ case: kind, value }, initial) {
  switch (kind) {
    case 'video': return `${value.videoId} ${initial ? 'initial' : 'new'}`;
    case 'problem': return summary(value.outcome);
    case 'recovered': return 'lookups work again';
    case 'missed': return 'uploads may have been missed';
  }
}

// Prints an error. Programs switch on the reason; the message is for humans.
function explain(error) {
  const [info] = error.findDetails(ErrorInfoSchema);
  print(`error: ${CodeSchema.value[error.code].name} ${info?.reason ?? '-'}: ${error.rawMessage}`);
  const delay = retryDelay(error);
  if (delay) print(`retry: in ${(delay / 1000).toFixed(1)} s`);
}

// The delay that the server asks for, in milliseconds; 0 if none.
function retryDelay(error) {
  const delay = error.findDetails(RetryInfoSchema)[0]?.retryDelay;
  return delay ? Number(delay.seconds) * 1000 + delay.nanos / 1e6 : 0;
}

try {
  await get(channelIds[0]);
  await batch();
  await watch();
} catch (error) {
  if (!(error instanceof ConnectError)) throw error;
  explain(error);
} finally {
  out.ariaBusy = 'false';
}
