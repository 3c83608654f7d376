/**
 * The machine that this host last had a state of, in a file: so that a host that is configured as
 * the secondary can boot the guest when it has its newest data and nobody else runs it.
 *
 * The file is one object of JSON, mode 0600, written durably:
 *
 *   {"version":1,"crc":"89abcdef","peer":"10.0.0.1","hello":"{...}"}
 *
 * `hello` is the primary's hello of the session, without its secrets: definition, digests of the boot
 * files, policy. It is checked like one that comes from the peer. `crc`: CRC-32C of `peer`, a zero
 * byte and `hello`.
 */
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { type Configuration, diskPlace, nicConnection } from '../config/index.js';
import type { LeaseMemory } from '../failover/index.js';
import { checkedDefinition, type Guest, launchGuest } from '../guest/index.js';
import { crc32c, type Logger, OperatorError, ProtocolError } from '../lib/index.js';
import { writeDurably } from '../linux/index.js';
import { HELLO_BYTES, type Hello, parseHello } from '../replication/index.js';

/** What a guest is booted from, beside this host's own configuration. */
export interface SavedMachine {
  readonly hello: Hello;
  /** Address of the host that had it then. */
  readonly peer: string;
}

const FILE_BYTES_MAX = 2 * HELLO_BYTES;

const fileSchema = z.strictObject({
  version: z.literal(1),
  crc: z.string().regex(/^[0-9a-f]{8}$/),
  peer: z.string().min(1).max(64),
  hello: z.string().max(HELLO_BYTES),
});

/** Durable when it resolves. */
export async function saveMachine(
  configuration: Configuration,
  { hello, peer }: SavedMachine,
): Promise<void> {
  const text = JSON.stringify({ ...hello, speech: null, ramDigests: undefined });
  const file = { version: 1, crc: checksum(peer, text), peer, hello: text };
  await writeDurably(pathOf(configuration), `${JSON.stringify(file)}\n`);
}

/**
 * Undefined without a file. Throws `ProtocolError` for one that is damaged, or that another version
 * has written: then there is nothing to boot from, and nothing else is wrong.
 */
export async function readMachine(configuration: Configuration): Promise<SavedMachine | undefined> {
  const text = await readBounded(pathOf(configuration));
  if (text === undefined) return undefined;
  const { crc, peer, hello } = parseFile(text);
  const found = checksum(peer, hello);
  if (found !== crc) throw new ProtocolError(`Its checksum is ${found}, not ${crc}`);
  return { hello: parseHello(hello), peer };
}

/**
 * Boots it from the images that this host has. Throws OperatorError for what can't be had, such as
 * an image that is not there or other boot files.
 */
export async function bootSaved(
  configuration: Configuration,
  { hello }: SavedMachine,
  { log, lease }: { readonly log: Logger; readonly lease: LeaseMemory | undefined },
): Promise<Guest> {
  const definition = await checkedDefinition(configuration, hello);
  return launchGuest({
    configuration,
    role: 'live',
    disks: definition.disks.map(({ name, readOnly }) => {
      return { ...diskPlace(configuration, name), readOnly };
    }),
    nics: definition.nics.map(({ name }) => {
      const { tap, bridge } = nicConnection(configuration, name);
      return { tapName: tap, ...(bridge === undefined ? {} : { bridge }) };
    }),
    compareTimeoutUs: hello.policy.compareTimeoutUs,
    lease,
    define: async ({ sizes }, disks) => {
      for (const [index, { name, sizeBytes }] of definition.disks.entries()) {
        if (sizes[index] === sizeBytes) continue;
        const message = `The image of disk ${name} has ${sizes[index]} bytes, expected ${sizeBytes}`;
        throw new OperatorError('COLO_E_IMAGE_SIZE', message);
      }
      await disks.beginAlone();
      return definition;
    },
    log,
  });
}

function pathOf({ stateDir, vm }: Configuration): string {
  return join(stateDir, `${vm}.machine`);
}

function checksum(peer: string, hello: string): string {
  return crc32c(Buffer.from(`${peer}\0${hello}`))
    .toString(16)
    .padStart(8, '0');
}

function parseFile(text: string): z.infer<typeof fileSchema> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new ProtocolError('It is not JSON', { cause });
  }
  const parsed = fileSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new ProtocolError(`Its ${issue?.path.join('.') || 'text'}: ${issue?.message}`);
}

async function readBounded(path: string): Promise<string | undefined> {
  const file = await open(path, 'r').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (file === undefined) return undefined;
  try {
    const bytes = Buffer.alloc(FILE_BYTES_MAX + 1);
    let length = 0;
    for (;;) {
      const { bytesRead } = await file.read(bytes, length, bytes.length - length, null);
      if (bytesRead === 0) break;
      length += bytesRead;
      if (length > FILE_BYTES_MAX) throw new ProtocolError(`It exceeds ${FILE_BYTES_MAX} bytes`);
    }
    return bytes.toString('utf8', 0, length);
  } finally {
    await file.close();
  }
}
