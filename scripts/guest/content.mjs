// Writes the files that the guest's nginx serves: node content.mjs <directory>.
// Their bytes are a keyed AES-CTR stream, so every build serves the same and a client can know the
// digests beforehand; nothing in them compresses.
import { createCipheriv, createHash } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const directory = process.argv[2];
if (directory === undefined) {
  throw new Error('Usage: node content.mjs <directory>');
}

function pseudoRandom(name, sizeBytes) {
  const key = createHash('sha256').update(`colo guest ${name}`).digest();
  return createCipheriv('aes-256-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(sizeBytes));
}

function sha256(bytes) {
  return createHash('sha256').update(bytes).digest('hex');
}

mkdirSync(directory, { recursive: true });
const page = `<!doctype html>
<html lang="en"><head><title>Colo test guest</title></head>
<body><p>This page is served by the test guest. Kill the host it runs on: it stays.</p>
<p><a href="/file">a file</a></p></body></html>
`;
writeFileSync(join(directory, 'index.html'), page);
for (const [name, sizeBytes] of [
  ['file', 1 << 20],
  ['big', 32 << 20],
]) {
  const bytes = pseudoRandom(name, sizeBytes);
  writeFileSync(join(directory, name), bytes);
  writeFileSync(join(directory, `${name}.sha256`), `${sha256(bytes)}\n`);
}
