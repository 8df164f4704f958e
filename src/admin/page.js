// What is drawn

let looks = [], now, recent, minute; // samples of the last minute; the last one, and older ones to compare it with
let points = [];                     // of the charts, one for each two looks
let lost;                            // since when the server cannot be reached, and why

const total = (name, where) => now.sum(name, where);
const lately = (name, where) => now.rate(recent, name, where);
const both = (name, where) => `${rate(lately(name, where))} · ${count(total(name, where))}`;
/** A histogram since an older look or, where nothing was counted since, in all; and whether it is the former. */
function spread(older, name, where) {
  const fresh = Boolean(older && now.since(older, `${name}_count`, where));
  return [now.buckets(fresh ? older : undefined, name, where), fresh];
}
const span = () => SPANS.find(span => !points.length || now.at - points[0].from <= span) ?? SPANS.at(-1);
const across = (at, width) => Math.max(0, width * (1 - (now.at - at) / span()));

function take(look) {
  let last = now;
  now = look;
  // Whatever counts less than before is a new process, which began at nothing.
  if (last && [...last.families.keys()].some(name => /_(total|count)$/.test(name) && now.sum(name) < last.sum(name))) {
    last = Object.assign(new Look(''), { at: last.at });
    looks = [last];
  }
  looks = [...looks.filter(old => now.at - old.at <= MINUTE || old === last), now];
  minute = last && looks[0];
  recent = last && (looks.findLast(old => now.at - old.at >= RECENT) ?? looks[0]);
  if (!last || now.at <= last.at) return;
  const rates = Object.keys(ANSWERS).map(answer => now.rate(last, QUESTIONS, { cache_status: answer }));
  points.push({
    from: last.at, at: now.at, rates, sum: rates.reduce((a, b) => a + b), queue: total('plaque_upstream_queue'),
    calls: now.rate(last, CALLS), errors: now.rate(last, CALLS) - now.rate(last, CALLS, OK),
    p99: quantile(now.buckets(last, CALL, GET), 0.99)[0],
  });
  points = points.filter(point => now.at - point.at <= SPANS.at(-1));
}

// Drawing. Titles come from the network: text is only ever put as text.

const $ = id => document.getElementById(id);
const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const say = texts => Object.entries(texts).forEach(([id, text]) => put($(id), text));

/** Makes a list's rows those of `items`. Rows stay in the page, so that nothing flickers. */
function rows(id, items, fill) {
  const list = $(id), template = $(list.dataset.row).content.firstElementChild;
  while (list.children.length > items.length) list.lastElementChild.remove();
  while (list.children.length < items.length) list.append(template.cloneNode(true));
  items.forEach((item, i) => fill(list.children[i], item));
}
const table = (id, lines) => rows(id, lines, (row, texts) => texts.forEach((text, i) => put(row.children[i], text)));

/** A list of bars: each as long as its `share` of 1 says or, without one, as its `size` beside the largest; none without either. */
function bars(id, items) {
  const most = Math.max(...items.map(({ size }) => size));
  rows(id, items, (row, { name, value, size, share = most && size / most, tone = 'miss', note = '', alert }) => {
    const [title, number, { firstElementChild: bar }, small] = row.children;
    [[title, name], [number, value], [small, alert ? `▲ ${alert}` : note]].forEach(([node, text]) => put(node, text));
    Object.assign(bar.style, { width: `${100 * Math.min(1, share)}%`, background: `var(--${tone})` });
    bar.parentElement.hidden = Number.isNaN(share);
    small.classList.toggle('alert', Boolean(alert));
  });
}

/** Bars of a counter by one of its labels, the longest first. */
function barsBy(id, name, label, tone = () => 'miss', except = undefined) {
  const items = now.labels(name, label).filter(value => value !== except).map(value => {
    const where = { [label]: value };
    return { name: value.replaceAll('_', ' '), size: total(name, where), value: both(name, where), tone: tone(value) };
  });
  bars(id, items.filter(({ size }) => size).sort((a, b) => b.size - a.size));
}

function shapes(id, label, width, height, kind, list) {
  const set = (node, values) => Object.entries(values).forEach(([name, value]) => node.setAttribute(name, value));
  set($(id), { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', 'aria-label': label });
  $(id).replaceChildren(...list.map(values => {
    const shape = document.createElementNS('http://www.w3.org/2000/svg', kind);
    set(shape, values);
    return shape;
  }));
}

function spark(id, what, field, format) {
  const known = points.filter(point => point[field] !== undefined);
  const values = known.map(point => point[field]), most = Math.max(...values, 0);
  const line = known.map(({ at }, i) => `${across(at, 100)} ${32 - 30 * (most && values[i] / most)}`).join('L');
  const summary = line && `: ${format(values.at(-1))}, at most ${format(most)} in the last ${time(span() / 1000)}`;
  shapes(id, what + summary, 100, 34, 'path', line ? [{ d: `M${line}` }] : []);
}

function drawQuestions() {
  const most = Math.max(...points.map(({ sum }) => sum), 0), power = 10 ** Math.floor(Math.log10(most));
  const top = most && power * [1, 1.5, 2, 3, 4, 6, 8, 10].find(step => step * power >= most * 0.9999);
  let under = points.map(() => 0);
  const layers = Object.keys(ANSWERS).map((answer, layer) => {
    const over = points.map(({ rates }, i) => under[i] + rates[layer]);
    const step = (at, height) => `${across(at, 600)} ${200 - 200 * height / top}`;
    const steps = heights => points.flatMap(({ from, at }, i) => [step(from, heights[i]), step(at, heights[i])]);
    const edges = [...steps(over), ...steps(under).reverse()];
    under = over;
    return { d: `M${edges.join('L')}z`, fill: `var(--${answer})` };
  });
  const answers = Object.entries(ANSWERS).map(([answer, meaning]) => {
    const where = { cache_status: answer };
    return { answer, meaning, speed: rate(lately(QUESTIONS, where)), sum: total(QUESTIONS, where), tone: `var(--${answer})` };
  });
  const summary = answers.map(({ answer, speed }) => `${answer} ${speed}`).join(', ');
  const title = `Questions a second in the last ${time(span() / 1000)}, by answer. Now: ${summary}`;
  shapes('chart', title, 600, 200, 'path', top ? layers : []);
  rows('lookups', answers, (row, { answer, meaning, speed, sum, tone }) => {
    const [swatch, name, note] = row.firstElementChild.children, [, second, third] = row.children;
    swatch.style.background = tone;
    [[name, answer], [note, meaning], [second, speed], [third, count(sum)]].forEach(([node, text]) => put(node, text));
  });
  const asked = total(QUESTIONS), requests = total(REQUESTS);
  rows('shares', answers, ({ style }, { sum, tone }) => {
    Object.assign(style, { width: `${asked && 100 * sum / asked}%`, background: tone });
  });
  say({
    saved: asked ? percent(Math.max(0, 1 - requests / asked)) : '–',
    'saved-note': `${plural(asked, 'question')} cost ${plural(requests, 'request')} upstream`,
    top: top ? rate(top) : 'no question in this time',
    half: top ? rate(top / 2) : '',
    'chart-from': `${time(span() / 1000)} ago`,
  });
}

function drawCalls() {
  const failed = total(CALLS) - total(CALLS, OK), [durations, fresh] = spread(recent, CALL, GET);
  say({
    calls: recent ? rate(lately(CALLS)) : count(total(CALLS)),
    'calls-note': `${plural(total(CALLS), 'call')} in all, ${count(total('plaque_calls'))} in progress`,
    latency: total(CALLS, GET) ? `${quantile(durations, 0.5)[1]} · ${quantile(durations, 0.99)[1]}` : '–',
    'latency-note': `p50 · p99 of GetLatestVideo, ${fresh ? 'now' : 'in all'}`,
    errors: recent ? rate(lately(CALLS) - lately(CALLS, OK)) : count(failed),
    'errors-note': `${plural(failed, 'error')} in all, ${percent(total(CALLS) && failed / total(CALLS))} of the calls`,
  });
  spark('calls-spark', 'Calls a second', 'calls', rate);
  spark('latency-spark', '99th percentile of the latency', 'p99', time);
  spark('errors-spark', 'Errors a second', 'errors', rate);
  barsBy('codes', CALLS, 'rpc_response_status_code', () => 'bad', 'OK');
  const called = now.labels(CALLS, 'rpc_method').filter(method => total(CALLS, { rpc_method: method }));
  table('methods', called.map(method => {
    const where = { rpc_method: method }, [buckets] = spread(recent, CALL, where);
    const name = method.split('/').at(-1).replace(/(?<=[a-z])(?=[A-Z])/g, '\u200b'); // where a narrow screen may break it
    return [name, rate(lately(CALLS, where)), ...[0.5, 0.99].map(share => quantile(buckets, share)[1])];
  }));
}

function drawUpstream() {
  barsBy('outcomes', REQUESTS, 'outcome', outcome => ({ found: 'hit', not_found: 'negative' })[outcome] ?? 'bad');
  const [buckets, fresh] = spread(minute, UPSTREAM), most = Math.max(...buckets.map(([, n]) => n), 0);
  const [p50, p90] = [0.5, 0.9].map(share => quantile(buckets, share)[1]);
  const summary = most ? `p50 ${p50}, p90 ${p90}, ${fresh ? 'in the last minute' : 'in all'}` : 'No request yet.';
  const heights = buckets.map(([, n]) => n && 2 + 66 * n / most);
  const columns = heights.map((height, i) => ({ x: i * 10 + 0.5, width: 9, y: 70 - height, height }));
  shapes('histogram', `How many requests took how long: ${summary}`, buckets.length * 10 || 10, 70, 'rect', columns);
  const [shortest, longest] = most ? [`< ${time(buckets[0][0])}`, `> ${time(buckets.at(-2)[0])}`] : ['', ''];
  say({ 'upstream-latency': summary, shortest, longest, queue: count(total('plaque_upstream_queue')) });
  spark('queue-spark', 'Lookups that wait for their turn', 'queue', count);
}

function drawBudget() {
  const SENT = 'plaque_upstream_sent_total', limit = total('plaque_upstream_rate_limit'), sent = lately(SENT);
  const classes = Object.entries(CLASSES).map(([name, [title, note, tone]]) => {
    const where = { class: name }, share = recent && lately(SENT, where) / (limit || sent || 1);
    const [admitted, refused] = ['admitted', 'refused'].map(what => rate(lately(`plaque_upstream_${what}_total`, where)));
    return { title, note, tone, share, texts: [share === undefined ? '–' : percent(share), admitted, refused,
      count(total('plaque_upstream_queued', where))] };
  });
  rows('classes', classes, (row, { title, note, tone, texts }) => {
    const [swatch, name, small] = row.firstElementChild.children;
    swatch.style.background = `var(--${tone})`;
    [[name, title], [small, note], ...texts.map((text, i) => [row.children[i + 1], text])].forEach(([node, text]) => put(node, text));
  });
  rows('budget-shares', classes, ({ style }, { share = 0, tone }) => {
    Object.assign(style, { width: `${100 * share}%`, background: `var(--${tone})` });
  });
  const used = `${rate(sent)} sent${limit ? ` of ${rate(limit)}` : ', without a limit'}`;
  $('budget-shares').setAttribute('aria-label', `Requests upstream: ${used}`);
  say({ budget: used });
}

function drawChannels() {
  const { newest, sources, flights, busiest, about } = now.busy, titles = new Map(busiest.map(({ channelId, title }) => [channelId, title]));
  rows('newest', newest, drawUpload);
  $('try').hidden = newest.length > 0;
  say({ commands: commands(about) });
  table('settings', about.settings);
  bars('sources', sources.map(sourceBar));
  const shown = flights.slice(0, 8), more = Math.max(total('plaque_flights'), flights.length) - shown.length;
  bars('flights', shown.map(({ channelId, kind, ageSeconds, waiters }) => ({
    name: titles.get(channelId) || channelId, size: ageSeconds, value: time(ageSeconds), tone: 'collapsed',
    note: plural(waiters, 'caller waits', 'callers wait') + (kind ? `, for a ${kind}` : ''),
  })));
  say({ 'flights-note': more > 0 ? `and ${count(more)} more` : '' });
  bars('busiest', busiest.map(({ channelId, title, asked, askedPerSecond, ageSeconds, failing }) => ({
    name: title || channelId, size: askedPerSecond, value: rate(askedPerSecond), tone: 'hit',
    note: `asked ${plural(asked, 'time')}, the answer is ${time(ageSeconds)} old`,
    alert: failing && `asked ${plural(asked, 'time')}: ${failing}`,
  })));
}

/** What to try first: plaque's own client, and grpcurl. */
function commands({ grpcPort, tls }) {
  const at = `${location.hostname}:${grpcPort}`, plain = tls ? '' : '-plaintext ';
  return `plaque get --server ${tls ? 'https' : 'http'}://${at} @kurzgesagt
grpcurl ${plain}-d '{"channel_id":"${EXAMPLE}"}' ${at} plaque.v1.LatestVideo/GetLatestVideo`;
}

/** An upload: one of the newest, or an answer. */
function drawUpload(row, { videoId, title, url, channelTitle, channelId, kind, ageSeconds }, note = '') {
  const [, link, channel, small] = row.children;
  row.dataset.video = videoId;
  drawPicture(row);
  if (link.href !== url) link.href = url;
  const texts = [title || videoId, channelTitle || channelId, (/short$/i.test(kind) ? 'Short' : 'Video') +
    (ageSeconds === null ? '' : `, ${time(ageSeconds)} ago`) + note];
  [link, channel, small].forEach((node, i) => put(node, texts[i]));
}

/** The picture of an upload, if the reader wants pictures. In place of one that cannot be loaded there is a plain area. */
function drawPicture({ dataset, firstElementChild: frame }) {
  const src = `https://i.ytimg.com/vi/${dataset.video}/mqdefault.jpg`;
  if (!$('pictures').checked) return frame.replaceChildren();
  if (frame.firstElementChild?.src === src) return;
  const picture = new Image();
  const hide = () => { picture.hidden = true; };
  Object.assign(picture, { referrerPolicy: 'no-referrer', loading: 'lazy', alt: '', onerror: hide, src });
  frame.replaceChildren(picture);
}

/** A source, and what is left of its budget. */
function sourceBar({ source, host, failingSeconds, failedSecondsAgo, error, unitsLeft, unitsADay }) {
  let value = '', share, note = 'works';
  if (source === 'feed') {
    const sent = lately('plaque_upstream_sent_total'), limit = total('plaque_upstream_rate_limit');
    [value, share] = [`${rate(sent)}${limit ? ` of ${rate(limit)}` : ''}`, limit ? (sent ?? 0) / limit : undefined];
  } else if (unitsADay) {
    [value, share] = [`${count(unitsLeft)} of ${count(unitsADay)} units left`, unitsLeft / unitsADay];
    note += `; new ones at ${clock(1000 * total('plaque_youtube_api_reset_timestamp_seconds'))}`;
  }
  const fails = failedSecondsAgo <= FAILS ? `has failed for ${time(failingSeconds)}` : `last failed ${time(failedSecondsAgo)} ago`;
  const alert = error && `${fails}: ${error}`;
  return { name: SOURCES[source] + (host ? `: ${host}` : ''), value, share, tone: alert ? 'bad' : 'hit', note, alert };
}

function drawRoom() {
  bars('room', [
    ['Cache', 'plaque_cache_weight_bytes', 'cache_bytes', bytes, plural(total('plaque_cache_entries'), 'channel')],
    ['Connections', 'plaque_connections', 'connections', count], ['Calls in progress', 'plaque_calls', 'calls', count],
    ['Callers that wait for lookups', 'plaque_waiters', 'waiters', count],
  ].map(([name, metric, of, format, note]) => {
    const used = total(metric), limit = total('plaque_limit', { of });
    return { name, note, share: limit && used / limit, value: format(used) + (limit ? ` of ${format(limit)}` : '') };
  }));
  const [size, age] = ['size', 'expired'].map(cause => count(total('plaque_cache_evictions_total', { cause })));
  say({ evictions: `Evicted from the cache: ${size} for room, ${age} for age.` });
  table('counts', [
    ['Watches', count(total('plaque_watches'))], ['Channels watched', count(total('plaque_watched_channels'))],
    ['Lookups for them', both('plaque_polls_total')], ['Connections accepted', both('plaque_connections_accepted_total')],
  ]);
  barsBy('closed', 'plaque_connections_closed_total', 'reason');
}

/** What an operator must know first: how bad it is, what it is, and more of it. */
function states() {
  const notices = [], notice = (tone, what, note) => notices.push([tone, what, note]);
  if (lost) notice('bad', `The server is out of reach since ${clock(lost.at)}`,
    now ? `Its numbers are of ${clock(now.at)}.` : lost.why);
  if (!now) return notices;
  const breaker = now.samples('plaque_upstream_breaker').find(({ value }) => value)?.state ?? 'unknown';
  const asked = now.since(minute, REQUESTS), when = minute ? 'in the last minute' : 'in all';
  const failed = ['found', 'not_found'].reduce((rest, outcome) => rest - now.since(minute, REQUESTS, { outcome }), asked);
  const shed = minute && now.since(minute, 'plaque_calls_shed_total'), served = 'What is known is still answered.';
  if (breaker === 'open') notice('bad', 'The upstream refuses us: the breaker is open', `No lookup goes out. ${served}`);
  if (breaker === 'probing') notice('warn', 'One lookup tries the upstream: the breaker is probing', served);
  if (total('plaque_upstream_outage')) notice('warn', 'Outage: the upstream answers 404 for channels that exist', served);
  if (now.samples('plaque_store_up').some(({ value }) => !value)) {
    notice('warn', 'The store is in trouble: plaque goes on without it', 'The log has the reason.');
  }
  if (breaker === 'closed' && failed > asked / 5) {
    notice('warn', 'Lookups fail', `${count(failed)} of ${plural(asked, 'request')} upstream ${when}.`);
  }
  const { failing, sources } = now.busy, channels = failing.reduce((sum, { channels }) => sum + channels, 0);
  if (channels) {
    const reasons = failing.map(({ reason, channels, error }) => `${count(channels)} × ${reason} (${isolate(error)})`);
    notice('warn', plural(channels, 'channel fails', 'channels fail'), `${reasons.join(', ')}. Those with an older answer are answered.`);
  }
  for (const { source, host, error, failedSecondsAgo } of sources) {
    if (!error || failedSecondsAgo > FAILS) continue;
    if (source !== 'feed') notice('warn', `A fallback fails: ${SOURCES[source]}, ${host}`, isolate(error));
    else if (!channels && breaker === 'closed') notice('warn', `The feed fails: ${host}`, isolate(error));
  }
  const refused = minute && now.since(minute, 'plaque_upstream_refused_total');
  if (refused) {
    notice('warn', 'Overloaded: lookups get no turn', `${plural(refused, 'lookup')} ${when}. The table of the budget says which.`);
  }
  if (shed) notice('warn', 'Overloaded: calls are refused', `${plural(shed, 'call')} ${when}. The limits are under Room.`);
  if (!notices.length) notice('good', 'All is well', `The breaker is ${breaker}, and there is no outage.`);
  return notices;
}

function draw() {
  const notices = states();
  rows('states', notices, (row, [tone, what, note]) => {
    row.style.setProperty('--tone', `var(--${tone})`);
    row.querySelector('path').setAttribute('d', SHAPES[tone]);
    put(row.querySelector('b'), what);
    put(row.querySelector('small'), note);
  });
  document.body.classList.toggle('old', Boolean(lost));
  document.title = `${notices[0][0] === 'good' ? '' : '▲ '}plaque${recent ? `, ${rate(lately(CALLS))}` : ''}`;
  if (!now) return;
  const version = now.samples('plaque_build_info')[0]?.version ?? '';
  say({ version: `${version}, up ${time(now.busy.about.uptimeSeconds)}` });
  [drawQuestions, drawCalls, drawUpstream, drawBudget, drawChannels, drawRoom].forEach(part => part());
}

function drawAge() {
  const age = now && Math.round((Date.now() - now.at) / 1000);
  const summary = !now ? 'no numbers yet' : age < 3 && !lost ? 'live' : `numbers of ${time(age)} ago`;
  say({ age: (document.hidden ? 'paused, ' : '') + summary });
}

// The choice is kept, unless the browser keeps nothing.
try { $('pictures').checked = localStorage.getItem('pictures') === 'true'; } catch {}
$('pictures').addEventListener('change', ({ target }) => {
  try { localStorage.setItem('pictures', target.checked); } catch {}
  document.querySelectorAll('.uploads li').forEach(drawPicture);
});

// Looking

async function ask(path) {
  const answer = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(2 * PERIOD) });
  if (!answer.ok) throw new Error(`/${path} answers ${answer.status}`);
  return answer.text();
}

let timer;
async function poll() {
  document.body.ariaBusy = 'true';
  try {
    const isBehind = !(Date.now() - points.at(-1)?.at < GAP);
    const [metrics, busy, history] = await Promise.all([ask('metrics'), ask('busy'), isBehind ? ask('history') : '[]']);
    take(new Look(metrics, JSON.parse(busy)));
    const past = pointsOf(JSON.parse(history), now.at);
    if (past.length) points = [...points.filter(({ at }) => at <= past[0].from), ...past];
    lost = undefined;
  } catch (error) {
    lost = { at: lost?.at ?? Date.now(), why: error.message };
  }
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(poll, PERIOD);
  draw();
  drawAge();
  document.body.ariaBusy = 'false';
}

document.addEventListener('visibilitychange', () => {
  clearTimeout(timer);
  if (document.hidden) drawAge(); else poll();
});
setInterval(drawAge, 1000);
poll();
