// Run by data-plane.test.ts: a process that ends in one of many ways while there is a data plane.
import { DataPlane, IoThread, VIRTIO_BLK_T_IN } from '../../src/index.ts'
import { eventually } from '../../../../test/support/eventually.ts'
import { eventPolls } from './event-polls.ts'
import { faulty } from './faulty-engine.ts'
import { Guest } from './guest.ts'

const [way, path] = process.argv.slice(2) as [string, string]
const never = { rules: [{ fault: { kind: 'never' } as const }] }
const plane = DataPlane.create({ path, queues: 2, threads: 2, ...(way === 'exit with requests in flight' && { engine: faulty(never) }) })
const guests = way === 'end without a start' ? [] : [new Guest(), new Guest()]
const started = plane.start(guests.map((guest) => guest.setup))

switch (way) {
  case 'exit while it starts':
    setImmediate(() => process.exit(7))
    break
  case 'exit while it runs': {
    await started
    await guests[0]!.read(0, 512)
    // After the data plane's own: by now the threads have left their system calls, and closed what they polled.
    const before = eventPolls()
    const ended = performance.now()
    process.on('exit', () => {
      // The end of the process does not wait longer than a second: on a machine that is that slow, this shows nothing.
      const isDone = before - eventPolls() >= 2 || performance.now() - ended >= 1000
      console.log(isDone ? 'the threads are done' : 'the threads still run')
    })
    process.exit(7)
    break
  }
  case 'exit with requests in flight':
    await started
    for (let sector = 0; sector < 10; sector++) guests[1]!.request(VIRTIO_BLK_T_IN, sector, { writable: [{ address: 0x200000, length: 512 }] })
    await eventually('10 requests are in flight', () => plane.inFlight[1] === 10)
    console.log(`in flight: ${plane.inFlight}`)
    process.exit(7)
    break
  case 'exit while disks share a thread': {
    await plane.close()
    const iothread = new IoThread()
    const disks = [0, 1].map(() => DataPlane.create({ path, iothread, readOnly: true }))
    await Promise.all(disks.map((disk, index) => disk.start([guests[index]!.setup])))
    await Promise.all(guests.map((guest) => guest.read(0, 512)))
    await disks[0]!.stop()
    process.exit(7)
    break
  }
  case 'an uncaught error':
    await started
    setTimeout(() => { throw new Error('on purpose') })
    break
  case 'end without a start':
    await started
    break
  case 'end after a close':
    await started
    await guests[0]!.read(0, 512)
    await plane[Symbol.asyncDispose]()
    for (const guest of guests) guest.close()
    console.log(plane.state)
    break
  default:
    throw new Error(`no way ${way}`)
}
