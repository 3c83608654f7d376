/** `colo status` for people: one line a fact, the name left, the value right. Pure. */
import {
  type CertificateStatus,
  type CompareStatus,
  type DiskStatus,
  type DiskSyncStatus,
  EXPIRY_WARNING_DAYS,
  type LastSync,
  type MigrationFigures,
  type MigrationStatus,
  type NodeStatus,
  type SecurityStatus,
  type SpeechStatus,
} from '../config/index.js';

const LABEL_WIDTH = 16;
const BAR_WIDTH = 30;
const MICROSECONDS_IN_MS = 1000;
/** No lease is that long; beyond, an operator has vouched for the peer's silence. */
const UNLIMITED_MS = 86_400_000;

/** The whole table, with a line end. Whatever the agent said in it is made printable. */
export function formatStatus(status: NodeStatus): string {
  const rows: [string, string][] = [
    ['VM', `${status.vm} on ${status.host}`],
    ['Role', roleText(status)],
    ['Peer', peerText(status.peer)],
    ['Epoch', `${status.epoch}, committed ${orNone(status.committedEpoch)}`],
    ['Mode', modeText(status)],
  ];
  if (status.sync !== null) {
    rows.push(['Synchronising', syncText(status.sync)]);
    for (const disk of status.sync.disks) rows.push([`  disk ${disk.name}`, diskSyncText(disk)]);
  }
  if (status.lastSync !== null) rows.push(['Synchronised', lastSyncText(status.lastSync)]);
  if (status.verify !== null) rows.push(['Verifying', verifyText(status.verify)]);
  if (status.migration !== null) rows.push(['Migration', migrationText(status.migration)]);
  rows.push(
    ['Checkpoints', checkpointText(status.checkpoints)],
    ['Pause', pauseText(status.pauseMs)],
    ['Dirty pages', dirtyText(status.dirtyPages)],
    ['Sent', formatBytes(status.bytesSent)],
    ['Held output', `${status.held.frames} frames, ${formatBytes(status.held.bytes)}`],
    ['Downtime', status.downtimeMs === null ? 'none' : milliseconds(status.downtimeMs)],
    ['Guest', guestText(status)],
  );
  if (status.compare !== null && status.mode === 'colo') {
    rows.push(['Compared', compareText(status.compare)]);
  }
  for (const disk of status.disks) {
    const parts = [
      formatBytes(disk.sizeBytes),
      `buffered ${formatBytes(disk.bufferedBytes)}`,
      `overlay ${formatBytes(disk.overlayBytes)}`,
    ];
    if (disk.generation !== null) parts.push(generationText(disk.generation));
    rows.push([`Disk ${disk.name}`, parts.join(', ')]);
  }
  if (status.speech !== null) rows.push(...speechRows(status.speech));
  if (status.security !== null) rows.push(...securityRows(status.security));
  rows.push(['Disk memory', formatBytes(status.diskMemoryBytes)]);
  rows.push(['Up', uptimeText(status.uptimeMs)]);
  rows.push(['Last failure', status.lastFailure ?? 'none']);
  return rows
    .map(([label, value]) => `${printable(label).padEnd(LABEL_WIDTH)} ${printable(value)}\n`)
    .join('');
}

/** `[#####.....]  50 %`; a total of 0 counts as done. */
export function formatBar(done: number, total: number): string {
  const share = total <= 0 ? 1 : Math.min(1, Math.max(0, done / total));
  const filled = Math.floor(share * BAR_WIDTH);
  const bar = `${'#'.repeat(filled)}${'.'.repeat(BAR_WIDTH - filled)}`;
  return `[${bar}] ${String(Math.floor(share * 100)).padStart(3)} %`;
}

/** Bytes in the largest unit that keeps a digit before the point. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return unit === 0 ? `${bytes} B` : `${value.toFixed(1)} ${units[unit]}`;
}

/** The shared word for where it stands, and its own where that says more. */
function roleText({ role, phase, state }: NodeStatus): string {
  return phase === state ? `${role}, ${phase}` : `${role}, ${phase} (${state})`;
}

/** A secondary has no period: the primary decides. */
function modeText({ mode, periodMs }: NodeStatus): string {
  return periodMs > 0 ? `${mode}, every ${milliseconds(periodMs)}` : mode;
}

function guestText({ qemuVersion, accelerator, dirtyTracker }: NodeStatus): string {
  if (qemuVersion === 'none') return 'none yet';
  return `QEMU ${qemuVersion}, ${accelerator}, pages by ${dirtyTracker}`;
}

function peerText(peer: NodeStatus['peer']): string {
  if (peer.state === 'none') return 'none';
  const heard =
    peer.lastHeardMs === null ? 'never heard' : `heard ${milliseconds(peer.lastHeardMs)} ago`;
  return `${peer.address}, ${peer.state}, ${heard}`;
}

/** What of the guest's memory crossed the network, and what did not have to. */
export function lastSyncText({ durationMs, ramSentBytes, ramKeptBytes }: LastSync): string {
  const sent = `${formatBytes(ramSentBytes)} of memory sent`;
  const kept = ramKeptBytes === 0 ? '' : `, ${formatBytes(ramKeptBytes)} kept there`;
  return `${sent}${kept}, in ${(durationMs / 1000).toFixed(1)} s`;
}

function syncText(sync: NonNullable<NodeStatus['sync']>): string {
  const bar = formatBar(sync.doneBytes, sync.totalBytes);
  return `${bar}  ${sync.phase}, ${formatBytes(sync.doneBytes)} of ${formatBytes(sync.totalBytes)}`;
}

/** `comparing, 120 of 4096 clusters, 3 differ, some 12 s left` */
function diskSyncText(disk: DiskSyncStatus): string {
  const { phase, candidates, compared, differing, sentBytes, leftBytes, remainingS } = disk;
  const parts = [phase];
  if (phase !== 'waiting') {
    parts.push(`${compared} of ${candidates} clusters compared`, `${differing} differ`);
    parts.push(`sent ${formatBytes(sentBytes)}`, `${formatBytes(leftBytes)} to send`);
  }
  if (remainingS !== null && remainingS > 0)
    parts.push(`some ${uptimeText(remainingS * 1000)} left`);
  return parts.join(', ');
}

/** One line, also for the progress of `colo verify`. */
export function verifyText(verify: NonNullable<NodeStatus['verify']>): string {
  const { disk, compared, clusters, differing } = verify;
  return `${formatBar(compared, clusters)}  disk ${disk}, ${differing} clusters differ`;
}

/** `[####......]  40 %  precopy to 10.0.0.3, round 2, 812.0 MiB at 110.0 MiB/s, some 4 s left` */
export function migrationText(migration: MigrationStatus): string {
  const { direction, method, peer, state, round, doneBytes, totalBytes } = migration;
  const where = direction === 'outgoing' ? `to ${peer}` : `from ${peer}`;
  const parts = [`${method} ${where}`, state];
  if (round > 0) parts.push(`round ${round}`);
  parts.push(
    `${formatBytes(migration.sentBytes)} at ${formatBytes(Math.round(migration.bytesPerSecond))}/s`,
  );
  const { remainingMs, throttlePercent, downtimeMs, faults, problem } = migration;
  if (throttlePercent > 0) parts.push(`guest slowed down by ${throttlePercent} %`);
  if (remainingMs !== null) parts.push(`some ${Math.ceil(remainingMs / 1000)} s left`);
  if (downtimeMs !== null) parts.push(`downtime ${Math.round(downtimeMs)} ms`);
  if (faults !== null) parts.push(faultsText(faults));
  if (problem !== null) parts.push(problem);
  return `${formatBar(doneBytes, totalBytes)}  ${parts.join(', ')}`;
}

/** `total 4.1 s, downtime 38 ms, 212.0 MiB sent, 120 faults, p50 0.20 ms, p99 1.31 ms` */
export function movedText(figures: MigrationFigures): string {
  const { totalMs, downtimeMs, sentBytes, faults } = figures;
  const parts = [`total ${(totalMs / 1000).toFixed(1)} s`];
  if (downtimeMs !== null) parts.push(`downtime ${Math.round(downtimeMs)} ms`);
  parts.push(`${formatBytes(sentBytes)} sent`);
  if (faults !== null) parts.push(faultsText(faults));
  return parts.join(', ');
}

function faultsText({ count, p50Us, p99Us }: NonNullable<MigrationStatus['faults']>): string {
  const [p50, p99] = [p50Us, p99Us].map((us) => (us / MICROSECONDS_IN_MS).toFixed(2));
  return `${count} faults, p50 ${p50} ms, p99 ${p99} ms`;
}

/** The first digits of a generation are enough to tell it from others. */
function generationText(generation: NonNullable<DiskStatus['generation']>): string {
  const { id, epoch, state } = generation;
  return `${state}, generation ${id.slice(0, 8)} epoch ${epoch}`;
}

function checkpointText(checkpoints: NodeStatus['checkpoints']): string {
  const triggers = Object.entries(checkpoints.byTrigger).map(([name, count]) => `${name} ${count}`);
  const detail = triggers.length === 0 ? '' : ` (${triggers.join(', ')})`;
  return `${checkpoints.total}${detail}, failed ${checkpoints.failed}`;
}

function compareText(compare: CompareStatus): string {
  const { flows, confirmedFrames, divergences, timeouts } = compare;
  const differed = `${divergences} divergences, ${timeouts} timeouts`;
  return `${confirmedFrames} frames confirmed, ${differed}, ${flows} flows`;
}

function speechRows(speech: SpeechStatus): [string, string][] {
  const { witness, granted, state, leaseMs, token, peer, gateway, trouble } = speech;
  const grant = granted ? `granted, token ${token}` : `no grant, token ${token}`;
  const left = leaseMs > UNLIMITED_MS ? 'without end' : `for ${milliseconds(leaseMs)} more`;
  const right = leaseMs > 0 ? `${state}, ${left}` : state;
  const rows: [string, string][] = [
    ['Witness', [witness, grant, ...(trouble === null ? [] : [trouble])].join(', ')],
    ['Right to speak', right],
    ['Heartbeats', `the peer is ${peer}`],
  ];
  return gateway === null ? rows : [...rows, ['Gateway', gateway]];
}

function securityRows(security: SecurityStatus): [string, string][] {
  const { transport, certificate, peerCertificate } = security;
  if (transport === 'plain') return [['Links', 'plain: anybody on them can read and change them']];
  const rows: [string, string][] = [['Links', 'mutual TLS 1.3']];
  if (certificate !== null) rows.push(['Certificate', certificateText(certificate)]);
  if (peerCertificate !== null) rows.push(["Peer's", certificateText(peerCertificate)]);
  return rows;
}

function certificateText({ names, validUntil, daysLeft }: CertificateStatus): string {
  const left = daysLeft < 0 ? 'EXPIRED' : `${daysLeft} ${daysLeft === 1 ? 'day' : 'days'} left`;
  const renew = daysLeft >= 0 && daysLeft < EXPIRY_WARNING_DAYS ? ', RENEW IT' : '';
  return `${names.join(', ')}, until ${validUntil.slice(0, 10)}: ${left}${renew}`;
}

function pauseText(pause: NodeStatus['pauseMs']): string {
  if (pause.last === null) return 'none yet';
  const parts = Object.entries(pause).map(
    ([name, value]) => `${name} ${value === null ? 'none' : milliseconds(value)}`,
  );
  return parts.join(', ');
}

function dirtyText(dirty: NodeStatus['dirtyPages']): string {
  if (dirty.last === null) return 'none yet';
  return `${dirty.last} in the last checkpoint, ${orNone(dirty.inPause)} of them in the pause`;
}

function milliseconds(ms: number): string {
  return `${Number(ms.toFixed(ms < 10 ? 2 : 0))} ms`;
}

function uptimeText(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  const parts: [number, string][] = [
    [Math.floor(seconds / 86_400), 'd'],
    [Math.floor(seconds / 3600) % 24, 'h'],
    [Math.floor(seconds / 60) % 60, 'min'],
    [seconds % 60, 's'],
  ];
  const first = parts.findIndex(([value]) => value > 0);
  const shown = first === -1 ? parts.slice(-1) : parts.slice(first, first + 2);
  return shown.map(([value, unit]) => `${value} ${unit}`).join(' ');
}

function orNone(value: number | null): string {
  return value === null ? 'none' : String(value);
}

export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is replaced
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, '?');
}
