// Runs the conformance cases with this client; see ../../conformance/README.md.
//
//     node runner.mjs --cases DIR --addresses HOST:PORT,HOST:PORT --control HOST:PORT [--only NAME]
import { readdirSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { Client } from '../dist/index.js';
import { CLIENT_OPERATIONS, clientOptions, fromError, OPERATIONS } from './operations.mjs';
import { matches, pathOf, resolve, resolveForJson, show } from './values.mjs';

const LANGUAGE = 'node';
const TIMEOUT_S = Number(process.env.PANDO_TEST_TIMEOUT_S ?? 60);
const STEP_FIELDS = new Set(['expect', 'error', 'save', 'on']);

/** The control server: one line of JSON a request, and one an answer, in their order. */
class Control {
  constructor(address) {
    const at = address.lastIndexOf(':');
    this.socket = connect(Number(address.slice(at + 1)), address.slice(0, at));
    this.waiting = [];
    this.socket.on('error', (error) => this.waiting.splice(0).forEach(({ reject }) => reject(error)));
    createInterface({ input: this.socket }).on('line', (line) => this.waiting.shift().resolve(parseAnswer(line)));
  }

  async request(request) {
    const answer = await new Promise((resolve, reject) => {
      this.waiting.push({ resolve, reject });
      this.socket.write(`${JSON.stringify(request)}\n`);
    });
    if (!answer.ok) throw new Error(`the control server says: ${answer.error}`);
    return answer;
  }

  close() {
    this.socket.end();
  }
}

/** Bytes come as {"hex": "..."}; JSON.parse would round long integers. */
function parseAnswer(line) {
  const exact = line.replace(/([:[,]\s*)(-?\d{16,})(?=\s*[,}\]])/g, '$1{"int":"$2"}');
  return resolve(JSON.parse(exact), new Map());
}

class Mismatch extends Error {}

/** One case: its clients, sessions and snapshots, by name. */
class Case {
  constructor(definition, addresses, control) {
    this.definition = definition;
    this.addresses = addresses;
    this.control = control;
    this.named = new Map();
    this.snapshots = new Map();
    this.touchesServers = definition.through === 'proxy';
  }

  async run() {
    const { definition } = this;
    if (definition.through === 'proxy') this.addresses = [(await this.control.request({ action: 'proxy' })).address];
    this.client = new Client(this.addresses, clientOptions(definition.client ?? {}));
    const variables = new Map();
    for (const [i, step] of definition.steps.entries()) {
      try {
        await this.runStep(step, variables);
      } catch (error) {
        const why = error instanceof Mismatch ? error.message : show(fromError(error) ?? String(error?.stack ?? error));
        throw new Mismatch(`step ${i + 1} (${operationOf(step)}): ${why}`);
      }
    }
  }

  async close() {
    for (const snapshot of this.snapshots.values()) await snapshot.close({ timeoutMs: 1000 }).catch(() => {});
    for (const client of [this.client, ...this.named.values()]) await client?.close?.();
    if (this.touchesServers) await this.control.request({ action: 'heal' });
  }

  async runStep(step, variables) {
    const name = operationOf(step);
    let result;
    try {
      result = await this.perform(name, step[name], step.on, variables);
    } catch (error) {
      const described = fromError(error);
      if (step.error === undefined || !described) throw error;
      if (!matches(step.error, described, variables)) {
        throw new Mismatch(`expected the error ${show(step.error)}, got ${show(described)}`);
      }
      this.save(step.save, described, variables);
      return;
    }
    if (step.error !== undefined) throw new Mismatch(`expected the error ${show(step.error)}, got ${show(result)}`);
    if (step.expect !== undefined && !matches(step.expect, result, variables)) {
      throw new Mismatch(`expected ${show(resolveForJson(step.expect, variables))}, got ${show(result)}`);
    }
    this.save(step.save, result, variables);
  }

  save(wanted, result, variables) {
    for (const [name, path] of Object.entries(wanted ?? {})) variables.set(name, pathOf(result, path));
  }

  async perform(name, raw, on, variables) {
    if (name === 'repeat') return this.repeat(raw, variables);
    if (name === 'parallel') return this.parallel(raw, variables);
    if (name === 'control') return this.controlStep(raw, variables);
    const args = resolve(raw, variables);
    if (name in this.handles) return this.handles[name](args, this.target(on));
    if (Object.hasOwn(CLIENT_OPERATIONS, name)) return CLIENT_OPERATIONS[name](this.target(on), args);
    if (!Object.hasOwn(OPERATIONS, name)) throw new Mismatch('this runner does not know the operation');
    return OPERATIONS[name](...this.withSnapshots(args, on));
  }

  target(on) {
    if (on === undefined) return this.client;
    if (!this.named.has(on)) throw new Mismatch(`there is no client or session ${on}`);
    return this.named.get(on);
  }

  snapshot(name) {
    if (!this.snapshots.has(name)) throw new Mismatch(`there is no snapshot ${name}`);
    return this.snapshots.get(name);
  }

  // A snapshot of the step's own client is read through its object, and by another client or session as an option.
  withSnapshots(args, on) {
    if (typeof args !== 'object') return [this.target(on), args];
    const { snapshot, since, ...rest } = args;
    const options = since === undefined ? rest : { ...rest, since: this.snapshot(since) };
    if (snapshot === undefined) return [this.target(on), options];
    if (on === undefined) return [this.snapshot(snapshot), options];
    return [this.target(on), { ...options, snapshot: this.snapshot(snapshot) }];
  }

  /** Operations that make or end the things that others use. */
  handles = {
    client: (args) => {
      this.named.set(args.as, new Client(args.addresses ?? this.addresses, clientOptions(args)));
      return {};
    },
    close: (args) =>
      this.target(args.client)
        .close()
        .then(() => ({})),
    session: (args, client) => {
      this.named.set(args.as, client.session());
      return {};
    },
    snapshot: async ({ as, ttl_ms: ttlMs, renew: autoRenew, timeout_ms: timeoutMs }, client) => {
      const snapshot = await client.snapshot({ ttlMs, autoRenew, timeoutMs });
      this.snapshots.set(as, snapshot);
      return { version: snapshot.version, expires_at_ms: snapshot.expiresAtMs };
    },
    renew: async (args) => {
      const snapshot = this.snapshot(args.snapshot);
      await snapshot.renew(args.ttl_ms);
      return { version: snapshot.version, expires_at_ms: snapshot.expiresAtMs };
    },
    release: async (args) => ({ existed: await this.snapshot(args.snapshot).close() }),
  };

  async repeat({ times, steps }, variables) {
    for (let i = 0; i < times; ++i) {
      variables.set('i', i);
      for (const step of steps) await this.runStep(step, variables);
    }
    return {};
  }

  async parallel({ times, steps, branches }, variables) {
    const all = branches ?? Array.from({ length: times }, () => steps);
    const runs = all.map(async (branch, i) => {
      const own = new Map(variables).set('i', i);
      for (const step of branch) await this.runStep(step, own);
    });
    const failed = (await Promise.allSettled(runs)).find((run) => run.status === 'rejected');
    if (failed) throw failed.reason;
    return {};
  }

  controlStep(raw, variables) {
    this.touchesServers = true;
    return this.control.request(resolveForJson(raw, variables));
  }
}

function operationOf(step) {
  const names = Object.keys(step).filter((name) => !STEP_FIELDS.has(name));
  if (names.length !== 1) throw new Mismatch(`a step has one operation, not ${show(names)}`);
  return names[0];
}

async function runCase(definition, addresses, control) {
  const one = new Case(definition, addresses, control);
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Mismatch(`it takes longer than ${TIMEOUT_S} s`)), TIMEOUT_S * 1000);
  });
  try {
    await Promise.race([one.run(), late]);
  } finally {
    clearTimeout(timer);
    await one.close();
  }
}

function loadCases(directory, only) {
  const files = readdirSync(directory)
    .filter((name) => name.endsWith('.json'))
    .sort();
  const cases = files.flatMap((name) => JSON.parse(readFileSync(join(directory, name), 'utf8')));
  return cases.filter((one) => only === undefined || one.name === only);
}

async function main() {
  const options = Object.fromEntries(
    ['cases', 'addresses', 'control', 'only'].map((name) => [name, { type: 'string' }]),
  );
  const { values } = parseArgs({ options });
  const control = new Control(values.control);
  let passed = 0;
  let failed = 0;
  for (const definition of loadCases(values.cases, values.only)) {
    const { name, only } = definition;
    if (only && !only.includes(LANGUAGE)) {
      console.log(`skip ${name}`);
      continue;
    }
    try {
      await runCase(definition, values.addresses.split(','), control);
      passed += 1;
      console.log(`ok ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAIL ${name}: ${error instanceof Mismatch ? error.message : (error?.stack ?? error)}`);
    }
  }
  control.close();
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed === 0 && passed > 0 ? 0 : 1;
}

await main();
