// Generates the structs of the wire interface from thrift/pando.thrift, with the `thrift` compiler.
//
// `js:node,es6` makes classes that run as they are; the client puts a protocol under them that reads and writes bigint
// (src/protocol.ts). `ts` makes declarations that are not right for them: every argument of a constructor is mandatory,
// fields that were left out are null but are not declared so, and i64 is an Int64. So they are corrected here. The
// services (Kv.js, Admin.js) are not used: their clients belong to the connection of the library, which this client
// replaces.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const idl = join(root, '..', '..', 'thrift', 'pando.thrift');

function correctDeclarations(text) {
  let name = '';
  return text
    .split('\n')
    .filter((line) => !line.startsWith('import '))
    .map((line) => {
      const begin = /^declare class (\w+)/.exec(line);
      if (begin) {
        name = begin[1];
        return `export declare class ${name} {`;
      }
      if (/^\s*constructor\(/.test(line)) return `  constructor(args?: Partial<${name}>);`;
      return line
        .replace(/^declare const/, 'export declare const')
        .replace(/^\s*public (\w+)\??: (.*);$/, '  public $1: $2 | null;')
        .replace(/\bInt64\b/g, 'bigint');
    })
    .join('\n');
}

function generate() {
  if (!existsSync(idl)) throw new Error(`there is no ${idl}: build the client in a clone of Pando`);
  const made = mkdtempSync(join(tmpdir(), 'pando-gen-'));
  try {
    execFileSync('thrift', ['--gen', 'js:node,ts,es6', '-out', made, idl], { stdio: 'inherit' });
    for (const directory of ['src/gen', 'dist/gen']) mkdirSync(join(root, directory), { recursive: true });
    const code = readFileSync(join(made, 'pando_types.js'));
    for (const directory of ['src/gen', 'dist/gen']) writeFileSync(join(root, directory, 'pando_types.js'), code);
    const declarations = correctDeclarations(readFileSync(join(made, 'pando_types.d.ts'), 'utf8'));
    writeFileSync(join(root, 'src/gen/pando_types.d.ts'), declarations);
  } catch (error) {
    if (error.code === 'ENOENT' && error.syscall?.startsWith('spawn')) {
      throw new Error('there is no `thrift` compiler: install it (Debian: thrift-compiler)', { cause: error });
    }
    throw error;
  } finally {
    rmSync(made, { recursive: true, force: true });
  }
}

generate();
