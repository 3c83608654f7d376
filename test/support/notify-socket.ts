/**
 * A service manager's end of NOTIFY_SOCKET. Perl listens, because Node can't on a datagram socket
 * of this family; each datagram comes out as one line, its own line ends as `|`.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import type { ExecutionContext } from 'ava';

const LISTENER = `
  use Socket;
  $| = 1;
  my $path = $ARGV[0];
  $path =~ s/^@/\\0/;
  socket(LISTENER, AF_UNIX, SOCK_DGRAM, 0) or die "socket: $!";
  bind(LISTENER, sockaddr_un($path)) or die "bind: $!";
  print "listening\\n";
  my $bytes;
  while (defined recv(LISTENER, $bytes, 65536, 0)) {
    $bytes =~ s/\\n$//;
    $bytes =~ tr/\\n/|/;
    print "$bytes\\n";
  }
`;

export class NotifySocket {
  readonly datagrams: string[] = [];
  #onDatagram: () => void = () => {};

  /** Listens at `/path` or `@name` until the test ends. */
  static async listen(t: ExecutionContext, address: string): Promise<NotifySocket> {
    const found = new NotifySocket();
    const listener = spawn('perl', ['-e', LISTENER, address], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const lines = createInterface({ input: listener.stdout });
    t.teardown(() => listener.kill('SIGKILL'));
    await once(lines, 'line');
    lines.on('line', (line) => {
      found.datagrams.push(line);
      found.#onDatagram();
    });
    return found;
  }

  /** The first datagram from `from` on that matches; the test's own deadline ends a vain wait. */
  async waitFor(pattern: RegExp, from = 0): Promise<string> {
    for (;;) {
      const match = this.datagrams.slice(from).find((datagram) => pattern.test(datagram));
      if (match !== undefined) return match;
      await new Promise<void>((resolve) => {
        this.#onDatagram = resolve;
      });
    }
  }
}
