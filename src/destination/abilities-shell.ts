/** What this host has of what a guest that is to come needs, found out before anything is begun. */
import { access, readFile, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { parseSharedProofs, sharedDifference } from '../blockrep/index.js';
import { type Configuration, diskPlace, nicConnection } from '../config/index.js';
import { parseMachineDefinition, probeQemu } from '../emulator/index.js';
import {
  bootFileDifferences,
  type ConfiguredDifference,
  configuredDifferences,
  PeerDiffersError,
} from '../guest/index.js';
import { type ColoError, describeError, PAGE_SIZE_BYTES } from '../lib/index.js';
import {
  type Abilities,
  type Difference,
  differencesOf,
  type HelloSection,
} from '../migration/index.js';
import type { ArrivingHello } from './destination-status.js';

const KIB = 1024;

/**
 * Everything that keeps this host from running the guest. Files that the guest is booted from are
 * looked at only if there is something else: else whoever launches it does so meanwhile.
 * Throws ProtocolError, OperatorError.
 */
export async function differencesHere(
  configuration: Configuration,
  { section, json }: ArrivingHello,
): Promise<Difference[]> {
  const configured = configuredDifferences(configuration, json);
  const names = parseMachineDefinition(json.definition, 'peer').nics.map(({ name }) => name);
  const able = await abilitiesHere(configuration, section, names);
  const shared = await sharedDifferences(configuration, section, json.sharedDisks ?? []);
  const found = [...plain(configured), ...differencesOf(section, able), ...shared];
  if (found.length === 0) return [];
  return [...found, ...plain(await bootFileDifferences(configuration, json))];
}

/** What of this host has kept a guest from being launched, as it is told to the source. */
export function differencesBy(error: ColoError, { host, vm }: HelloSection): Difference[] {
  if (error instanceof PeerDiffersError) return plain(error.differences);
  return [{ what: 'guest', source: `${host}, ${vm}`, destination: describeError(error) }];
}

function plain(differences: readonly ConfiguredDifference[]): Difference[] {
  return differences.map(({ what, source, destination }) => ({ what, source, destination }));
}

/** Both hosts must say the same of a disk, and of a shared one have the same image. */
async function sharedDifferences(
  configuration: Configuration,
  hello: HelloSection,
  proofs: unknown,
): Promise<Difference[]> {
  const known = new Map(parseSharedProofs(proofs).map((proof) => [proof.disk, proof]));
  const found: Difference[] = [];
  for (const { name, sizeBytes, place, readOnly } of hello.disks) {
    const { path, shared = false } = diskPlace(configuration, name);
    const [source, destination] = [place === 'shared', shared].map((is) => {
      return is ? 'shared=on' : 'not shared';
    }) as [string, string];
    if (!readOnly && source !== destination) {
      found.push({ what: `disk ${name}`, source, destination: `${destination} (${path})` });
    }
    if (readOnly || place !== 'shared' || !shared) continue;
    const why = await sharedDifference({ name, path, sizeBytes }, known.get(name), hello.migration);
    if (why === undefined) continue;
    const advice = 'mount the same storage on both hosts, or remove shared=on on both';
    const destinationText = `not the same image at ${path}: ${why}; ${advice};`;
    found.push({ what: `disk ${name}`, source, destination: destinationText });
  }
  return found;
}

async function abilitiesHere(
  configuration: Configuration,
  hello: HelloSection,
  nicNames: readonly string[],
): Promise<Abilities> {
  const qemu = await probeQemu();
  const disks = await Promise.all(hello.disks.map((disk) => diskHere(configuration, disk)));
  return {
    qemuVersion: qemu.version,
    machineTypes: qemu.machineTypes,
    cpuModels: qemu.cpuModels,
    // TCG is everywhere.
    accelerator: qemu.kvm ? hello.accelerator : 'tcg',
    pageSizeBytes: PAGE_SIZE_BYTES,
    memoryBytes: await availableMemoryBytes(),
    nics: await Promise.all(nicNames.map((name) => nicHere(configuration, name))),
    disks: disks.flat(),
    // Whether QEMU's userfaultfd can be had is only known of a QEMU that runs.
    postcopy: true,
  };
}

/** An image that is there can grow; one that is not is made sparse, as large as it must be. */
async function diskHere(
  configuration: Configuration,
  { name, sizeBytes, place }: HelloSection['disks'][number],
): Promise<Abilities['disks']> {
  const { path } = diskPlace(configuration, name);
  const image = await stat(path).catch(() => undefined);
  // Nothing is made of it: it is told by what shows that it is the same.
  if (place === 'shared') return [{ name, sizeBytes }];
  if (image?.isFile() === true) return [{ name, sizeBytes: Math.max(image.size, sizeBytes) }];
  // What else is there is for whoever opens it to judge.
  const known = image ?? (await stat(dirname(path)).catch(() => undefined));
  return known === undefined ? [] : [{ name, sizeBytes }];
}

async function nicHere(
  configuration: Configuration,
  name: string,
): Promise<Abilities['nics'][number]> {
  const { bridge, tap } = nicConnection(configuration, name);
  if (bridge === undefined) return { bridge: tap, missing: false };
  const exists = await access(`/sys/class/net/${bridge}`).then(
    () => true,
    () => false,
  );
  return { bridge, missing: !exists };
}

/** What the kernel would find for a process without swapping. */
async function availableMemoryBytes(): Promise<number> {
  const text = await readFile('/proc/meminfo', 'utf8');
  const kib = /^MemAvailable:\s+(\d+) kB/m.exec(text)?.[1];
  return kib === undefined ? Number.MAX_SAFE_INTEGER : Number(kib) * KIB;
}
