import { createConnection } from 'node:net'
import { type ControlAnswer, ControlError, type ControlRequest, type DiskStatus, type ProgramStatistics, type ProgramStatus } from './control.ts'
import { duration } from './latency.ts'
import { formatTable } from './table.ts'

/** How long an answer may take: a pause drains. */
export interface AskOptions {
  /** Hangs up, with the signal's reason; the server may do what it was asked all the same. @default never */
  readonly signal?: AbortSignal
}

/**
 * Asks a server over its control socket.
 *
 * @throws ControlError ERR_CONTROL when there is none, or it ends without an answer; the signal's reason
 */
export async function ask (path: string, request: ControlRequest, { signal }: AskOptions = {}): Promise<ControlAnswer> {
  signal?.throwIfAborted()
  const client = createConnection({ path, ...(signal !== undefined && { signal }) }).setEncoding('utf8')
  let text = ''
  try {
    client.write(`${JSON.stringify(request)}\n`)
    for await (const more of client) {
      text += more
      if (text.includes('\n')) return JSON.parse(text)
    }
  } catch (error) {
    signal?.throwIfAborted()
    throw new ControlError(`no answer from ${path}: ${(error as Error).message}. Is a server running with --control=${path}?`, { cause: error })
  } finally {
    client.destroy()
  }
  throw new ControlError(`the server at ${path} ended the connection without an answer.`)
}

/** An answer's result, for people. */
export function describe (command: ControlRequest['command'], result: unknown): string {
  switch (command) {
    case 'status': return describeStatus(result as ProgramStatus)
    case 'stats': return describeStatistics(result as ProgramStatistics)
    case 'quit': return 'it ends'
    default: {
      const { disk, capacity, state } = result as { disk: string, capacity?: number, state?: string }
      return capacity === undefined ? `${disk} is ${state}` : `${disk} has ${capacity} bytes`
    }
  }
}

function describeStatus ({ version, pid, uptimeSeconds, disks }: ProgramStatus): string {
  return [`version ${version}, process ${pid}, for ${Math.floor(uptimeSeconds)} seconds`, ...disks.map(describeDisk)].join('\n')
}

function describeDisk (disk: DiskStatus): string {
  const queues = disk.queues === 1 ? '1 queue' : `${disk.queues} queues`
  return `${disk.name}: ${disk.image} (${disk.capacity} bytes, ${disk.readOnly ? 'read-only' : 'read-write'}, ${queues}, ${disk.engine}) on ${disk.socket}\n` +
    `  ${disk.state}, ${disk.connected ? 'a front-end is connected' : 'nobody is connected'}, ${disk.inFlight} in flight`
}

function describeStatistics ({ disks }: ProgramStatistics): string {
  const head = ['disk', 'queue', 'requests', 'errors', 'bytes read', 'bytes written', 'kicks', 'interrupts', 'in flight']
  const rows = disks.flatMap(({ name, queues }) => queues.map((queue, index) => [
    name, index, queue.requests, queue.errors, queue.bytesRead, queue.bytesWritten, queue.kicks, queue.interrupts, queue.inFlight
  ]))
  const latencies = disks.map(({ name, latency: { count, mean, p50, p99, p999, max } }) => [name, count, ...[mean, p50, p99, p999, max].map(duration)])
  return `${formatTable([head, ...rows])}\n\n${formatTable([['latency of', 'requests', 'mean', 'p50', 'p99', 'p99.9', 'max'], ...latencies])}`
}
