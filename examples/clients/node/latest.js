// Gets the newest upload of a channel, then of several in a batch, and then watches them.
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import grpc from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { getProtoPath } from 'google-proto-files';

// In milliseconds, for a call and its retries. The service config says which errors are retried, and after which backoff (or the
// pause that the server asks for). grpc-js ignores its waitForReady: each call says that it waits for a server that restarts.
const DEADLINE = 10_000;
const SERVICE_CONFIG = fileURLToPath(new URL('../../../deploy/service-config.json', import.meta.url));
const waiting = () => new grpc.Metadata({ waitForReady: true });

// Pings the connection, so that a watch detects that the server's machine is gone.
const KEEPALIVE = { 'grpc.keepalive_time_ms': 60_000 };

// A watch is resumed after these. Proxies answer INTERNAL when they lose the server.
const TRANSIENT = [grpc.status.UNAVAILABLE, grpc.status.DEADLINE_EXCEEDED, grpc.status.INTERNAL];

// In milliseconds, the pause before a watch is resumed. Doubles until an event arrives.
const [MIN_BACKOFF, MAX_BACKOFF] = [1_000, 15_000];

// Loaded at runtime, so no code is generated.
const types = loadSync(['plaque/v1/latest_video.proto', 'google/rpc/status.proto', 'google/rpc/error_details.proto'], {
  includeDirs: [fileURLToPath(new URL('../../../proto', import.meta.url)), getProtoPath('..')],
  defaults: true, enums: String, longs: Number, oneofs: true,
});
const { LatestVideo } = grpc.loadPackageDefinition(types).plaque.v1;

const { values: args, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    server: { type: 'string', default: '127.0.0.1:3779' },
    events: { type: 'string', default: '10' }, // stop the watch after this many
    seconds: { type: 'string', default: '60' }, // or after this many seconds
    'service-config': { type: 'string', default: SERVICE_CONFIG },
  },
});
const channelIds = positionals.length ? positionals : ['UCsXVk37bltHxD1rDPwtNM8Q'];
const client = new LatestVideo(args.server, grpc.credentials.createInsecure(), {
  ...KEEPALIVE, 'grpc.service_config': readFileSync(args['service-config'], 'utf8'),
});

// Makes a call. The promise resolves to the answer and the headers.
function call(method, request) {
  return new Promise((resolve, reject) => {
    let headers;
    client[method](request, waiting(), { deadline: Date.now() + DEADLINE }, (error, answer) => {
      if (error) reject(error);
      else resolve({ answer, headers });
    }).on('metadata', (metadata) => { headers = metadata; });
  });
}

async function get(channelId) {
  const { answer: { video }, headers } = await call('GetLatestVideo', { channelId });
  console.log(`latest: ${video.videoId} ${video.kind} ${video.title}`);
  console.log(`cache-status: ${headers.get('cache-status').join(', ')}`);
}

async function batch() {
  const { answer } = await call('BatchGetLatestVideos', { channelIds });
  // The call succeeds even if some of its channels fail.
  for (const result of answer.results) console.log(`batch: ${result.channelId} ${outcome(result)}`);
}

const outcome = ({ found, failure }) => (found ? found.video.videoId : failure.reason);

async function watch(count, seconds) {
  for await (const event of events(Date.now() + seconds * 1000)) {
    console.log(`watch: ${event[event.event].channelId} ${describe(event)}`);
    if (--count <= 0) break;
  }
}

// The events of a watch until `end`. Resumes the stream when it breaks.
async function* events(end) {
  const tokens = new Map();
  let backoff = MIN_BACKOFF;
  while (Date.now() < end) {
    const call = client.WatchLatestVideo({ channelIds, resumeTokens: [...tokens.values()] }, waiting(), { deadline: end });
    let delay = 0;
    try {
      for await (const event of call) {
        backoff = MIN_BACKOFF;
        // Ignores kinds of events that only newer servers have.
        if (!event.event) continue;
        yield event;
        // Stored only after the event was handled; otherwise it is sent again.
        if (event.resumeToken.length) tokens.set(event[event.event].channelId, event.resumeToken);
      }
    } catch (error) {
      delay = retryDelay(error);
      if (!delay && !TRANSIENT.includes(error.code)) throw error;
    } finally {
      call.cancel();
    }
    // With jitter, so that the clients of a stopped server do not all reconnect at once.
    const pause = Math.max(delay, backoff) * (1 + Math.random());
    backoff = Math.min(2 * backoff, MAX_BACKOFF);
    await sleep(Math.min(pause, end - Date.now()));
  }
}

function describe({ event, video, problem, initial }) {
  switch (event) {
    case 'video': return `${video.videoId} ${initial ? 'initial' : 'new'}`;
    case 'problem': return outcome(problem);
    case 'recovered': return 'lookups work again';
    case 'missed': return 'uploads may have been missed';
  }
}

// Prints an error. Programs switch on the reason; the message is for humans.
function explain(error) {
  const reason = detail(error, 'google.rpc.ErrorInfo')?.reason ?? '-';
  console.log(`error: ${grpc.status[error.code]} ${reason}: ${error.details}`);
  const delay = retryDelay(error);
  if (delay) console.log(`retry: in ${(delay / 1000).toFixed(1)} s`);
}

// The delay that the server asks for, in milliseconds; 0 if none.
function retryDelay(error) {
  const delay = detail(error, 'google.rpc.RetryInfo')?.retryDelay;
  return delay ? delay.seconds * 1000 + delay.nanos / 1e6 : 0;
}

// The detail of this type that an error carries, if any.
function detail(error, type) {
  const [encoded] = error.metadata?.get('grpc-status-details-bin') ?? [];
  const details = encoded ? types['google.rpc.Status'].deserialize(encoded).details : [];
  const packed = details.find(({ type_url }) => type_url === `type.googleapis.com/${type}`);
  return packed && types[type].deserialize(packed.value);
}

try {
  await get(channelIds[0]);
  await batch();
  await watch(Number(args.events), Number(args.seconds));
} catch (error) {
  if (error.code === undefined) throw error;
  explain(error);
  process.exitCode = 1;
} finally {
  client.close();
}
