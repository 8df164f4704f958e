'use strict';
const PERIOD = 2000; // milliseconds between two looks at the server
const RECENT = 10e3; // what "now" means, in milliseconds: long enough for one call in ten seconds to show
const MINUTE = 60e3;
const SPANS = [1, 2, 5, 10, 20, 40, 60].map(minutes => minutes * MINUTE); // what the charts show: more as there is more to show
const FAILS = 60; // seconds: a source that failed longer ago may work again
const GAP = 30e3; // how long a page may see nothing until it asks for the history again
const EXAMPLE = 'UCsXVk37bltHxD1rDPwtNM8Q'; // Kurzgesagt
const ANSWERS = { // from the bottom of the chart to its top
  hit: 'kept, and fresh', stale: 'kept, older than fresh', collapsed: 'waited for a lookup begun by another',
  miss: 'began a lookup', negative: 'a remembered failure',
};
const SOURCES = { feed: 'Feed', mirror: 'Mirror', 'data-api': 'YouTube Data API' };
const CLASSES = { // of lookups: who has a share of the budget
  awaited_known: ['known', 'somebody waits', 'hit'], awaited_unknown: ['never found', 'somebody waits', 'negative'],
  refresh: ['refresh', 'behind a stale answer', 'stale'], poll: ['poll', 'of a watched channel', 'miss'],
};
const SHAPES = { // distinguished by form as well as by color: a disc with a tick, a triangle, a square with a bar
  good: 'M10 0a10 10 0 1 0 0 20 10 10 0 0 0 0-20zM8.6 14.6 4.4 10.4 6 8.8l2.6 2.6 5.4-5.4 1.6 1.6z',
  warn: 'M10 1 20 19H0zM9 7v6h2V7zM9 14.5v2h2v-2z',
  bad: 'M2 0h16q2 0 2 2v16q0 2-2 2H2q-2 0-2-2V2q0-2 2-2zM4 8.5v3h12v-3z',
};
const CALL = 'rpc_server_call_duration_seconds', UPSTREAM = 'plaque_upstream_request_duration_seconds';
const CALLS = `${CALL}_count`, REQUESTS = `${UPSTREAM}_count`, QUESTIONS = 'plaque_lookups_total';
const OK = { rpc_response_status_code: 'OK' }, GET = { rpc_method: 'plaque.v1.LatestVideo/GetLatestVideo' };

// Numbers, for people

const whole = new Intl.NumberFormat('en');
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumSignificantDigits: 3 });
const count = n => (n < 1e6 ? whole : short).format(n);
const precise = n => n < 100 ? String(Number(n.toPrecision(2))) : count(Math.round(n));
const rate = n => n === undefined ? '–' : `${precise(n)}/s`;
const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
const percent = share => `${Math.floor(share * 1000) / 10} %`;
const unit = units => n => {
  const [size, name] = units.findLast(([size]) => n >= size) ?? (n ? units[0] : [1, units.find(([size]) => size === 1)[1]]);
  return `${precise(n / size)}\u00a0${name}`;
};
const time = unit([[1e-6, 'µs'], [1e-3, 'ms'], [1, 's'], [60, 'min'], [3600, 'h'], [86400, 'd'], [31557600, 'y']]);
const bytes = unit([[1, 'B'], [2 ** 10, 'KiB'], [2 ** 20, 'MiB'], [2 ** 30, 'GiB']]);
/** Foreign text within a text of our own, whose direction it must not change. */
const isolate = text => `\u2068${text}\u2069`;
const clock = at => new Date(at).toLocaleTimeString();

// What the server says

/** One look at the server. `where` are the labels that count: `{ outcome: 'found' }`. */
class Look {
  constructor(text, busy) {
    Object.assign(this, { at: Date.now(), busy, families: new Map() });
    for (const line of text.split('\n')) {
      const [, name, labels = '', value] = line.match(/^([a-z_]\w*)(?:\{((?:\w+="(?:\\.|[^"\\])*",?)*)\})? (\S+)/) ?? [];
      if (!name) continue;
      const sample = { value: Number(value) };
      for (const [, label, summary] of labels.matchAll(/(\w+)="((?:\\.|[^"\\])*)"/g)) {
        sample[label] = summary.replace(/\\(.)/g, '$1');
      }
      if (!this.families.has(name)) this.families.set(name, []);
      this.families.get(name).push(sample);
    }
  }
  samples(name, where = {}) {
    const wanted = Object.entries(where);
    return (this.families.get(name) ?? []).filter(sample => wanted.every(([label, value]) => sample[label] === value));
  }
  sum(name, where) { return this.samples(name, where).reduce((sum, { value }) => sum + value, 0); }
  labels(name, label) { return [...new Set(this.samples(name).map(sample => sample[label]))]; }
  /** What was counted since an older look, if there is one, or else in all. */
  since(older, name, where) { return this.sum(name, where) - (older?.sum(name, where) ?? 0); }
  rate(older, name, where) { return older && this.since(older, name, where) / ((this.at - older.at) / 1000); }
  /** Likewise of a histogram: each bucket's upper bound in seconds, and what it counted. */
  buckets(older, name, where) {
    const seconds = le => le === '+Inf' ? Infinity : Number(le);
    const bounds = this.labels(`${name}_bucket`, 'le').sort((a, b) => seconds(a) - seconds(b));
    const upTo = bounds.map(le => this.since(older, `${name}_bucket`, { ...where, le }));
    return bounds.map((le, i) => [seconds(le), upTo[i] - (upTo[i - 1] ?? 0)]);
  }
}

/** The time that this share of a histogram is within, in seconds and in words; in a bucket, as if that were evenly filled. */
function quantile(buckets, share) {
  let rest = share * buckets.reduce((sum, [, n]) => sum + n, 0), from = 0;
  for (const [to, n] of buckets) {
    const at = from + (to - from) * rest / n;
    if (n && rest <= n) {
      return from === 0 ? [to, `< ${time(to)}`] : to === Infinity ? [from, `> ${time(from)}`] : [at, time(at)];
    }
    rest -= n;
    from = to;
  }
  return [0, '–'];
}

/** The points of the charts that the server's history has, which was read at a time. */
function pointsOf(history, read) {
  return history.flatMap(([[begun, ended], calls, errors, lookups]) => {
    const [from, at] = [read - 1000 * begun, read - 1000 * ended], each = n => n / (begun - ended);
    const rates = lookups.map(each); // in the order of ANSWERS
    return begun - ended < 1 ? [] : [{ from, at, rates, sum: rates.reduce((a, b) => a + b), calls: each(calls), errors: each(errors) }];
  });
}
