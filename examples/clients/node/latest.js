// Asks plaque what channels uploaded last: one of them, all of them at once, and then as it comes.
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import grpc from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { getProtoPath } from 'google-proto-files';

// In milliseconds. A call without a deadline waits for as long as the server lets it.
const DEADLINE = 10_000;

// Read as the program starts: there is no code to generate.
const types = loadSync(['plaque/v1/latest_video.proto', 'google/rpc/status.proto', 'google/rpc/error_details.proto'], {
  includeDirs: [fileURLToPath(new URL('../../../proto', import.meta.url)), getProtoPath('..')],
  defaults: true, enums: String, longs: Number, oneofs: true,
});
const { LatestVideo } = grpc.loadPackageDefinition(types).plaque.v1;

const { values: said, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    server: { type: 'string', default: '127.0.0.1:3779' },
    events: { type: 'string', default: '10' }, // watch until so many
    seconds: { type: 'string', default: '60' }, // or for so long
  },
});
const channelIds = positionals.length ? positionals : ['UCsXVk37bltHxD1rDPwtNM8Q'];
const client = new LatestVideo(said.server, grpc.credentials.createInsecure());

// A call as a promise of its answer and its headers.
function call(method, request) {
  return new Promise((resolve, reject) => {
    let headers;
    client[method](request, { deadline: Date.now() + DEADLINE }, (error, answer) => {
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
  // The call succeeds although some of its channels fail.
  for (const result of answer.results) console.log(`batch: ${result.channelId} ${outcome(result)}`);
}

const outcome = ({ found, failure }) => (found ? found.video.videoId : failure.reason);

async function watch(count, seconds) {
  const events = client.WatchLatestVideo({ channelIds }, { deadline: Date.now() + seconds * 1000 });
  try {
    for await (const { video, problem, initial } of events) {
      if (video) console.log(`watch: ${video.channelId} ${video.videoId} ${initial ? 'initial' : 'new'}`);
      else console.log(`watch: ${problem.channelId} ${outcome(problem)}`);
      if (--count <= 0) break;
    }
  } catch (error) {
    // Its deadline is one of the two ways in which this watch ends.
    if (error.code !== grpc.status.DEADLINE_EXCEEDED) throw error;
  }
  events.cancel();
}

// Prints an error: the reason is for programs to switch on, the message is for people.
function explain(error) {
  const [encoded] = error.metadata?.get('grpc-status-details-bin') ?? [];
  const details = encoded ? types['google.rpc.Status'].deserialize(encoded).details : [];
  const find = (name) => {
    const packed = details.find((detail) => detail.type_url === `type.googleapis.com/${name}`);
    return packed && types[name].deserialize(packed.value);
  };
  console.log(`error: ${grpc.status[error.code]} ${find('google.rpc.ErrorInfo')?.reason ?? '-'}: ${error.details}`);
  const delay = find('google.rpc.RetryInfo')?.retryDelay;
  if (delay) console.log(`retry: in ${(delay.seconds + delay.nanos / 1e9).toFixed(1)} s`);
}

try {
  await get(channelIds[0]);
  await batch();
  await watch(Number(said.events), Number(said.seconds));
} catch (error) {
  if (error.code === undefined) throw error;
  explain(error);
  process.exitCode = 1;
} finally {
  client.close();
}
