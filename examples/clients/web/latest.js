// Asks plaque what channels uploaded last: one of them, all of them at once, and then as it comes.
import { Code, ConnectError, createClient } from '@connectrpc/connect';
import { createGrpcWebTransport } from '@connectrpc/connect-web';

import { CodeSchema } from './gen/google/rpc/code_pb.js';
import { ErrorInfoSchema, RetryInfoSchema } from './gen/google/rpc/error_details_pb.js';
import { LatestVideo, VideoKindSchema } from './gen/plaque/v1/latest_video_pb.js';

// In milliseconds. A call without a deadline waits for as long as the server lets it.
const DEADLINE = 10_000;

const said = new URLSearchParams(location.search);
const server = said.get('server') ?? 'http://127.0.0.1:3779';
const events = Number(said.get('events') ?? 10); // watch until so many
const seconds = Number(said.get('seconds') ?? 60); // or for so long
const channelIds = said.has('channel') ? said.getAll('channel') : ['UCsXVk37bltHxD1rDPwtNM8Q'];
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
  // The call succeeds although some of its channels fail.
  for (const { channelId, outcome } of results) print(`batch: ${channelId} ${told(outcome)}`);
}

const told = ({ case: is, value }) => (is === 'found' ? value.video.videoId : value.reason);

async function watch(count) {
  try {
    for await (const { event, initial } of client.watchLatestVideo({ channelIds }, { timeoutMs: seconds * 1000 })) {
      const { channelId, videoId, outcome } = event.value;
      print(`watch: ${channelId} ${event.case === 'video' ? `${videoId} ${initial ? 'initial' : 'new'}` : told(outcome)}`);
      // Leaving the loop ends the call.
      if (--count <= 0) break;
    }
  } catch (error) {
    // Its deadline is one of the two ways in which this watch ends.
    if (ConnectError.from(error).code !== Code.DeadlineExceeded) throw error;
  }
}

// Prints an error: the reason is for programs to switch on, the message is for people.
function explain(error) {
  const [info] = error.findDetails(ErrorInfoSchema);
  print(`error: ${CodeSchema.value[error.code].name} ${info?.reason ?? '-'}: ${error.rawMessage}`);
  const [retry] = error.findDetails(RetryInfoSchema);
  const delay = retry?.retryDelay;
  if (delay) print(`retry: in ${(Number(delay.seconds) + delay.nanos / 1e9).toFixed(1)} s`);
}

try {
  await get(channelIds[0]);
  await batch();
  await watch(events);
} catch (error) {
  if (!(error instanceof ConnectError)) throw error;
  explain(error);
} finally {
  out.ariaBusy = 'false';
}
