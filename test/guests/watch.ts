// A server that is watched in each way that it has: what they say of a guest's requests must agree.
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import * as assert from 'uvu/assert'
import type { ControlAnswer, ControlCommand, ProgramStatistics, ProgramStatus } from '../../packages/vhost-user-blk/src/control.ts'
import { ask } from '../../packages/vhost-user-blk/src/control-client.ts'
import { until } from '../support/qmp.ts'
import type { Running } from '../support/processes.ts'
import { cli } from '../support/server.ts'
import { temporaryFolder } from '../support/temporary.ts'

/** A line of `vhost-user-blk trace --json`. */
interface Traced {
  readonly name: string
  readonly disk: string
  readonly microseconds: number
  readonly queue: number
  readonly head: number
  readonly result: number
}

/** What the trace says that a disk has done. */
interface Tally {
  /** Requests completed, by queue. */
  readonly requests: number[]
  /** Moved, one way or the other. */
  bytes: number
  /** From taken off the ring to complete, of all requests together. */
  microseconds: number
}

export class Watch {
  readonly #folder = temporaryFolder()
  readonly #control = join(this.#folder, 'control')
  readonly #trace = join(this.#folder, 'trace')
  /** For the server. */
  readonly flags = [`--control=${this.#control}`, `--trace-file=${this.#trace}`, '--metrics=0']
  #disks: ProgramStatistics['disks'] = []

  /** Takes the statistics, once the front-ends have gone and they do not change any more, and compares what Prometheus is told. */
  async lookAt (server: Running): Promise<void> {
    await until('nobody is connected', async () => (await this.#ask<ProgramStatus>('status')).disks.every(({ connected }) => !connected), 90)
    const { disks } = await this.#ask<ProgramStatistics>('stats')
    const metrics = await (await fetch(/metrics at (\S+)/.exec(server.output)![1]!)).text()
    this.#disks = disks
    for (const { name, queues, latency } of disks) {
      const metric = (key: string): string => new RegExp(`^node_vmm_${key}} (.*)$`, 'm').exec(metrics)?.[1] ?? 'none'
      for (const [queue, { requests }] of queues.entries()) assert.is(metric(`requests_total{disk="${name}",queue="${queue}"`), String(requests))
      assert.is(metric(`request_duration_seconds_count{disk="${name}"`), String(latency.count))
    }
  }

  async #ask<Result> (command: ControlCommand): Promise<Result> {
    const answer: ControlAnswer = await ask(this.#control, { command })
    if (!answer.ok) throw new Error(answer.error.message)
    return answer.result as Result
  }

  /** Compares the trace with these statistics, once the server has ended. */
  assertTraced (): void {
    const tallies = this.#tallies()
    for (const { name, queues, latency } of this.#disks) {
      const { requests, bytes, microseconds } = tallies.get(name)!
      assert.equal(requests, queues.map((queue) => queue.requests), `requests of ${name}`)
      assert.is(bytes, queues.reduce((sum, { bytesRead, bytesWritten }) => sum + bytesRead + bytesWritten, 0), `bytes of ${name}`)
      const count = requests.reduce((sum, queue) => sum + queue)
      assert.is(latency.count, count, `${name}: each request was timed`)
      assert.is(latency.buckets.reduce((sum, [, inBucket]) => sum + inBucket, 0), count, `${name}: and is in a bucket`)
      assert.ok(Math.abs(latency.mean - microseconds / count) < 0.01, `${name}: ${latency.mean} µs each, and ${microseconds / count} in the trace`)
    }
  }

  /** Each request is begun once and completed once, and none is missing. */
  #tallies (): Map<string, Tally> {
    const tallies = new Map<string, Tally>()
    const begun = new Map<string, number>()
    for (const { name, disk, queue, head, microseconds, result } of this.#traced()) {
      assert.is.not(name, 'virtio_blk_data_plane_trace_lost')
      const request = `head ${head} of queue ${queue} of ${disk}`
      if (name === 'virtio_blk_data_plane_process_request') {
        assert.not(begun.has(request), `${request} is begun while it is in flight`)
        begun.set(request, microseconds)
      } else if (name === 'virtio_blk_data_plane_complete_request') {
        assert.ok(begun.has(request), `${request} is completed without having been begun`)
        const tally = tallies.get(disk) ?? { requests: [], bytes: 0, microseconds: 0 }
        tallies.set(disk, tally)
        tally.requests[queue] = (tally.requests[queue] ?? 0) + 1
        tally.bytes += result
        tally.microseconds += microseconds - begun.get(request)!
        begun.delete(request)
      }
    }
    assert.equal([...begun.keys()], [], 'what was begun is completed')
    return tallies
  }

  #traced (): Traced[] {
    const lines = execFileSync(process.execPath, [cli, 'trace', this.#trace, '--json'], { encoding: 'utf8', maxBuffer: 1 << 30 })
    return lines.trim().split('\n').map((line) => JSON.parse(line))
  }
}
