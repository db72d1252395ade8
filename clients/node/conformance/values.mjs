// Values, variables and matchers of the conformance cases; see ../../conformance/README.md.
import { isDeepStrictEqual } from 'node:util';

const EXPRESSIONS = {
  hex: (e) => Buffer.from(e.hex, 'hex'),
  utf8: (e) => Buffer.from(e.utf8, 'utf8'),
  repeat: (e) => Buffer.from(e.repeat.repeat(Number(e.times)), 'utf8'),
  concat: (e, variables) => Buffer.concat(e.concat.map((part) => toBuffer(resolve(part, variables)))),
  int: (e) => BigInt(e.int),
  numbered: (e) => numbered(e.numbered),
  now_ms: (e) => BigInt(Date.now()) + BigInt(e.now_ms),
  plus: (e, variables) => e.plus.map((part) => BigInt(resolve(part, variables))).reduce((a, b) => a + b),
};

function toBuffer(value) {
  return Buffer.isBuffer(value) ? value : Buffer.from(String(value), 'utf8');
}

function numbered({ prefix = '', from, to, digits = 4 }) {
  const step = from <= to ? 1 : -1;
  const keys = [];
  for (let i = from; i !== to + step; i += step) keys.push(Buffer.from(prefix + String(i).padStart(digits, '0')));
  return keys;
}

const isObject = (value) =>
  value !== null && typeof value === 'object' && !Array.isArray(value) && !Buffer.isBuffer(value);

function expressionOf(value) {
  if (!isObject(value)) return null;
  const name = Object.keys(value).find((key) => Object.hasOwn(EXPRESSIONS, key));
  const allowed = name === 'repeat' ? 2 : 1;
  return name && Object.keys(value).length === allowed ? EXPRESSIONS[name] : null;
}

/** Replaces variables and expressions in a value, however deep. */
export function resolve(value, variables) {
  if (typeof value === 'string' && value.startsWith('$')) return variableOf(value.slice(1), variables);
  if (Array.isArray(value)) return value.map((part) => resolve(part, variables));
  const expression = expressionOf(value);
  if (expression) return expression(value, variables);
  if (isObject(value))
    return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, resolve(part, variables)]));
  return value;
}

function variableOf(name, variables) {
  if (!variables.has(name)) throw new Error(`there is no variable $${name}`);
  return variables.get(name);
}

/** Replaces variables only, with what JSON can say. */
export function resolveForJson(value, variables) {
  if (typeof value === 'string' && value.startsWith('$')) return toJson(variableOf(value.slice(1), variables));
  if (Array.isArray(value)) return value.map((part) => resolveForJson(part, variables));
  if (isObject(value)) {
    return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, resolveForJson(part, variables)]));
  }
  return value;
}

function toJson(value) {
  if (Buffer.isBuffer(value)) return { hex: value.toString('hex') };
  if (typeof value === 'bigint') return Number.isSafeInteger(Number(value)) ? Number(value) : { int: String(value) };
  return value;
}

const isNumber = (value) => typeof value === 'number' || typeof value === 'bigint';
const COMPARISONS = {
  gt: (a, b) => a > b,
  gte: (a, b) => a >= b,
  lt: (a, b) => a < b,
  lte: (a, b) => a <= b,
};

const MATCHERS = {
  any: (_, actual) => actual !== null && actual !== undefined,
  size: (size, actual) => Buffer.isBuffer(actual) && actual.length === Number(size),
  length: (length, actual) => Array.isArray(actual) && actual.length === Number(length),
  not: (inner, actual, variables) => !matches(inner, actual, variables),
  contains: (text, actual) => String(actual).includes(text),
  one_of: (choices, actual, variables) => choices.some((choice) => matches(choice, actual, variables)),
  each: (inner, actual, variables) => Array.isArray(actual) && actual.every((part) => matches(inner, part, variables)),
  unordered: (inner, actual, variables) => Array.isArray(actual) && matchUnordered(inner, [...actual], variables),
};

function matchUnordered(expected, actual, variables) {
  if (expected.length !== actual.length) return false;
  return expected.every((part) => {
    const at = actual.findIndex((candidate) => matches(part, candidate, variables));
    if (at >= 0) actual.splice(at, 1);
    return at >= 0;
  });
}

/** Does a result match what a case expects? */
export function matches(expected, actual, variables) {
  if (expected === null || expected === undefined) return actual === null || actual === undefined;
  if (typeof expected === 'string' && expected.startsWith('$')) {
    return matches(variableOf(expected.slice(1), variables), actual, variables);
  }
  if (isNumber(expected)) return isNumber(actual) && BigInt(expected) === BigInt(actual);
  if (typeof expected === 'string' && Buffer.isBuffer(actual)) return actual.equals(Buffer.from(expected, 'utf8'));
  if (Buffer.isBuffer(expected)) return Buffer.isBuffer(actual) && expected.equals(actual);
  if (Array.isArray(expected)) {
    return (
      Array.isArray(actual) &&
      expected.length === actual.length &&
      expected.every((part, i) => matches(part, actual[i], variables))
    );
  }
  if (isObject(expected)) return matchObject(expected, actual, variables);
  return isDeepStrictEqual(expected, actual);
}

function matchObject(expected, actual, variables) {
  const expression = expressionOf(expected);
  if (expression) return matches(expression(expected, variables), actual, variables);
  const keys = Object.keys(expected);
  if (keys.length > 0 && keys.every((key) => Object.hasOwn(COMPARISONS, key))) {
    return (
      isNumber(actual) &&
      keys.every((key) => COMPARISONS[key](BigInt(actual), BigInt(resolve(expected[key], variables))))
    );
  }
  if (keys.length === 1 && Object.hasOwn(MATCHERS, keys[0]))
    return MATCHERS[keys[0]](expected[keys[0]], actual, variables);
  return isObject(actual) && keys.every((key) => matches(expected[key], actual[key], variables));
}

/** A part of a result: `.` for the whole, or names and indexes with dots between. */
export function pathOf(result, path) {
  if (path === '.') return result;
  return path.split('.').reduce((part, name) => part?.[name], result) ?? null;
}

/** For messages. */
export function show(value) {
  const text = JSON.stringify(value, (_, part) => {
    if (typeof part === 'bigint') return `${part}n`;
    if (part?.type === 'Buffer') {
      const bytes = Buffer.from(part.data);
      return bytes.length > 64 ? `<${bytes.length} bytes>` : bytes.toString('latin1');
    }
    return part;
  });
  return text === undefined ? 'nothing' : text.slice(0, 2000);
}
