/** What `colo pki` says to a person. Pure. */
import { EXPIRY_WARNING_DAYS } from '../../config/index.js';
import type { IssueWish, Made } from './authority.js';
import type { ShownCertificate } from './certificate-file.js';

export function formatInit(made: Made): string {
  return [
    `${made.certificate}: a new CA, until ${dayOf(made.validUntil)}`,
    `${made.key}: its key; who has it can make hosts. It never leaves this host`,
    'Next, for each host of the pair, with the names and addresses that it is reached by:',
    '  colo pki issue NAME ADDRESS...',
    '',
  ].join('\n');
}

export function formatIssued({ name, others, renew }: IssueWish, made: Made): string {
  const lines = [
    `${made.certificate}: for ${made.names.join(', ')}, until ${dayOf(made.validUntil)}`,
  ];
  if (made.key === undefined) {
    lines.push('Its key is the one of before.');
    lines.push('If it belongs to another host, copy it there; its agent takes it when it starts:');
    lines.push(`  scp ${made.certificate} ${name}:${made.certificate}`);
    return `${lines.join('\n')}\n`;
  }
  if (others.length === 0 && !renew) {
    lines.push('No address is in it: the other host must name this one as above, in peer, or in');
    lines.push('tls-peer-names.');
  }
  const files = [made.ca, made.certificate, made.key];
  lines.push('If it belongs to another host, copy these there, the key by a safe way, and remove');
  lines.push('the key here:');
  lines.push(`  scp ${files.join(' ')} ${name}:${folderOf(made.ca)}/`);
  return `${lines.join('\n')}\n`;
}

export function formatShown(certificates: readonly ShownCertificate[]): string {
  return certificates
    .map((one) => {
      const what = one.isCa ? 'CA' : `host ${one.names.join(', ') || '(no name)'}`;
      const by = one.issuer === one.subject ? 'itself' : one.issuer;
      return [
        `${one.file}: ${what}`,
        `  subject      ${one.subject}, signed by ${by}`,
        `  valid        ${dayOf(one.validFrom)} to ${dayOf(one.validUntil)}: ${stateText(one)}`,
        `  fingerprint  ${one.fingerprint}`,
        '',
      ].join('\n');
    })
    .join('');
}

function stateText({ state, daysLeft }: ShownCertificate): string {
  if (state !== 'valid') return state.toUpperCase();
  const left = `${daysLeft} ${daysLeft === 1 ? 'day' : 'days'} left`;
  return daysLeft < EXPIRY_WARNING_DAYS ? `${left}, RENEW IT` : left;
}

function dayOf(time: string): string {
  return time.slice(0, 10);
}

function folderOf(path: string): string {
  return path.slice(0, path.lastIndexOf('/'));
}
