// Makes many calls, and prints how they ended: aged.mjs ADDRESS,… CALLS RATE SERVICE_CONFIG.
import { fileURLToPath } from 'node:url';

import grpc from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { getProtoPath } from 'google-proto-files';

const includeDirs = [fileURLToPath(new URL('../../../proto', import.meta.url)), getProtoPath('..')];
const { LatestVideo } = grpc.loadPackageDefinition(loadSync('plaque/v1/latest_video.proto', { includeDirs })).plaque.v1;

const [addresses, calls, rate, config] = process.argv.slice(2);
const client = new LatestVideo(`ipv4:${addresses}`, grpc.credentials.createInsecure(), { 'grpc.service_config': config });
const began = performance.now();
let [begun, ended] = [0, 0];

function beginThoseDue() {
  for (; begun < calls && performance.now() >= began + begun * 1000 / rate; begun += 1) {
    const request = { channelId: `UC${String(begun).padStart(21, '0')}A` };
    client.GetLatestVideo(request, { deadline: Date.now() + 10_000 }, (error) => {
      console.log(error ? `${grpc.status[error.code]} ${error.details}` : 'OK');
      ended += 1;
      if (ended === +calls) client.close();
    });
  }
  if (begun < calls) setTimeout(beginThoseDue, 1);
}

beginThoseDue();
