import { closeSync, constants, existsSync, mkdirSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { killAll } from '../test/support/processes.ts'
import { residentMemory } from '../test/support/resident-memory.ts'
import { type Case, setupOf } from './cases.ts'
import { countScavenges } from './collections.ts'
import { runFio } from './fio.ts'
import { makeImage } from './image.ts'
import type { LoadJob, LoadSample } from './load.ts'
import { describeMachine, freeHugePages } from './machine.ts'
import type { Options } from './options.ts'
import { LoadGenerator, Server } from './processes.ts'
import type { Measured, Results, Start } from './results.ts'
import { AUTO, NULL_BYTES, numbered, type Place, type ServerKind, socketsOf } from './servers.ts'
import { allCalls, countSystemCalls, findCounter, ioCalls } from './system-calls.ts'

/** No round begins that would not be over by then. */
const MINUTES_MAX = 21
const FIRST_REQUESTS = 1000
/** A setup of so few servers is measured several times in each round: that takes little time, and theirs are the figures that differ most. */
const FEW_SERVERS = 2
const TIMES_OF_FEW = 3
const WARM_DEPTH = 32
/** How many times as long servers need for that whose disks are many, or slow. */
const SLOW_WARM_FACTOR = 5
const COUNTED_DEPTH = 32
/** Seconds after which all code is compiled that ever will be, and for which garbage collections are counted then. */
const SETTLE_SECONDS = 10
const COLLECTED_SECONDS = 60
/** By request: what is rarer is not told by name. */
const RARE_CALLS = 0.001

interface Running {
  readonly kind: ServerKind
  readonly place: Place
  server: Server | undefined
}

/** Cases, and the processes that serve them, from the first round to the last. */
interface Setup {
  readonly cases: readonly Case[]
  readonly running: readonly Running[]
}

/** One run of the benchmark. */
export class Run {
  readonly results: Results
  readonly #options: Options
  readonly #servers: readonly ServerKind[]
  readonly #load: LoadGenerator
  readonly #folder: string
  readonly #diskFolder: string
  readonly #images = new Map<string, string>()
  readonly #began = performance.now()
  #sockets = 0

  constructor (options: Options, cases: readonly Case[], servers: readonly ServerKind[], missing: readonly string[]) {
    const { quick, milliseconds, cpus, imageBytes, folder } = options
    this.#options = options
    this.#servers = servers
    this.#load = new LoadGenerator(cpus[1])
    this.#folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'node-vmm-bench-'))
    this.#diskFolder = folder ?? fileURLToPath(new URL('../.cache/bench', import.meta.url))
    const notes = [...missing]
    this.results = {
      date: new Date().toISOString().slice(0, 16).replace('T', ' '),
      machine: describeMachine(),
      quick,
      rounds: 0,
      milliseconds,
      cpus,
      imageBytes,
      seconds: 0,
      cases: this.#possible(cases, notes),
      measured: [],
      starts: [],
      calls: [],
      collections: [],
      notes
    }
  }

  async everything (): Promise<void> {
    const { results } = this
    if (results.cases.length === 0) throw new Error('no case is left to measure')
    this.#makeImages()
    await this.#warmUp()
    await this.#rounds(await this.#setups())
    if (results.rounds < this.#options.rounds) results.notes.push(`only ${results.rounds} rounds: a run takes ${MINUTES_MAX} minutes at most`)
    await this.#countCalls()
    // Other checkouts are there to compare one thing, again and again.
    if (!this.#options.quick && this.#options.builds.length === 0) await this.#countCollections()
    results.seconds = this.#seconds()
  }

  /** Leaves no process and no file. */
  async close (): Promise<void> {
    this.#load.stop()
    await killAll()
    rmSync(this.#folder, { recursive: true, force: true })
    for (const image of this.#images.values()) rmSync(image, { force: true })
  }

  async #setups (): Promise<Setup[]> {
    const setups = new Map<string, Case[]>()
    for (const which of this.results.cases) setups.set(setupOf(which), [...setups.get(setupOf(which)) ?? [], which])
    const started: Setup[] = []
    for (const cases of setups.values()) started.push({ cases, running: await this.#start(cases[0]) })
    return started
  }

  async #rounds (setups: readonly Setup[]): Promise<void> {
    const { results } = this
    if (!this.#options.quick) for (const setup of setups) await this.#round(setup, 'all is run once, before it is measured', () => {})
    const began = this.#seconds()
    for (; results.rounds < this.#options.rounds && this.#hasTime(began); results.rounds++) {
      const round = results.rounds
      for (const setup of setups) {
        await this.#freshStarts(setup, round)
        for (let time = setup.running.length <= FEW_SERVERS ? TIMES_OF_FEW : 1; time > 0; time--) {
          await this.#round(setup, `round ${round + 1}`, (which, kind, sample) => { this.#measured(which, kind).samples.push(sample) })
        }
      }
      results.seconds = this.#seconds()
    }
    for (const setup of setups) await this.#stop(setup)
  }

  /** All cases, each with one server after the other, of which another one is the first in each round. */
  async #round ({ cases, running }: Setup, label: string, keep: (which: Case, kind: ServerKind, sample: LoadSample | undefined) => void): Promise<void> {
    const first = this.results.rounds % running.length
    const inTurn = [...running.slice(first), ...running.slice(0, first)]
    for (const which of cases) {
      this.#progress(`${label}: ${which.name}`)
      for (const one of inTurn) if (one.kind.serves(which)) keep(which, one.kind, await this.#sample(which, one))
    }
  }

  async #sample (which: Case, one: Running): Promise<LoadSample | undefined> {
    const { warmUpMilliseconds, milliseconds, cpus } = this.#options
    try {
      if (one.kind.command === undefined) return await runFio(which, this.#image(which, 'fio'), warmUpMilliseconds, milliseconds, cpus[0])
      if (one.server === undefined) return undefined
      return await this.#load.run(this.#job(which, one))
    } catch (error) {
      const { alive = true, output = '' } = one.server ?? {}
      this.#note(`${which.name}, ${one.kind.name}: ${(error as Error).message}${alive ? '' : `; it died: ${output.trimEnd().split('\n').at(-1)}`}`)
      // One that failed is no measure for what comes after.
      await this.#restart(which, one)
      return undefined
    }
  }

  #job (which: Case, { kind, place, server }: Running): LoadJob {
    const { warmUpMilliseconds, milliseconds } = this.#options
    return {
      ...which, sockets: socketsOf(kind, which, place), marked: which.backing !== 'null', pid: server!.pid, warmUpMilliseconds, milliseconds
    }
  }

  async #start (which: Case): Promise<Running[]> {
    const running: Running[] = []
    for (const kind of this.#servers.filter((candidate) => this.#serves(candidate, which))) {
      const one = await this.#launch(which, kind)
      running.push(one)
      await this.#warmServer(which, one)
    }
    return running
  }

  /** How soon servers are ready, and how fast they are then: each is started for that alone. */
  async #freshStarts ({ cases: [which], running }: Setup, round: number): Promise<void> {
    for (const { kind } of running) {
      const one = await this.#launch(which, kind)
      if (one.server === undefined) continue
      const start = this.#startOf(which, kind)
      start.readyAfter.push(one.server.readyAfter)
      if (which.backing === 'tmpfs' && which.queues === 1 && !which.growth) start.first.push(...await this.#firstRequests(which, one, round))
      await one.server.stop()
    }
  }

  async #firstRequests (which: Case, one: Running, round: number): Promise<LoadSample[]> {
    try {
      return [await this.#load.run({ ...this.#job(which, one), depth: 1, firstRequests: FIRST_REQUESTS })]
    } catch (error) {
      this.#note(`the first requests of ${one.kind.name}, round ${round + 1}: ${(error as Error).message}`)
      return []
    }
  }

  /** Code is compiled by another thread of the server, at the cost of its processor, when it has run so often: before anything is measured. */
  async #warmServer (which: Case, one: Running): Promise<void> {
    if (one.server === undefined) return
    const job = this.#job(which, one)
    // Each of many disks has a thread of its own, which compiles for itself.
    const milliseconds = job.milliseconds * (which.disks > 1 || which.backing === 'disk' ? SLOW_WARM_FACTOR : 1)
    await this.#load.run({ ...job, depth: WARM_DEPTH, milliseconds }).catch((error: Error) => this.#note(`warming ${one.kind.name} up: ${error.message}`))
  }

  /** In a place of its own; without a server where that cannot be had, or the kind is none. */
  async #launch (which: Case, kind: ServerKind): Promise<Running> {
    const one: Running = { kind, place: this.#place(which), server: undefined }
    await this.#restart(which, one)
    return one
  }

  async #restart (which: Case, one: Running): Promise<void> {
    if (one.kind.command === undefined) return
    await one.server?.stop()
    try {
      one.server = await Server.start(one.kind.name, one.kind.command(which, one.place), socketsOf(one.kind, which, one.place), this.#options.cpus[0])
    } catch (error) {
      one.server = undefined
      this.#note((error as Error).message)
    }
  }

  async #stop ({ cases: [which], running }: Setup): Promise<void> {
    for (const { kind, server } of running) {
      if (server === undefined) continue
      if (server.alive) this.#startOf(which, kind).memory.push(residentMemory(server.pid))
      await server.stop()
    }
  }

  /** The load generator's own code is slow at first: that is nobody's figure. */
  async #warmUp (): Promise<void> {
    this.#progress('warming up')
    const [which] = this.results.cases
    const kind = this.#servers.find((candidate) => candidate.command !== undefined && candidate.serves(which))
    if (kind === undefined) return
    const one = await this.#launch(which, kind)
    await this.#warmServer(which, one)
    await one.server?.stop()
  }

  #counted (): readonly Case[] {
    return this.results.cases.filter(({ depth, kind, pattern, queues, polls, growth }) =>
      depth === COUNTED_DEPTH && kind === 'read' && pattern === 'random' && queues === 1 && !polls && !growth)
  }

  /** In runs of their own, since counting costs time. */
  async #countCalls (): Promise<void> {
    const { calls, notes } = this.results
    const counted = this.#counted()
    const counter = counted.length === 0 ? undefined : findCounter()
    if (counted.length > 0 && counter === undefined) notes.push('neither perf nor strace can count system calls here')
    if (counter === undefined) return
    for (const which of counted) {
      for (const kind of this.#servers.filter((candidate) => candidate.command !== undefined && candidate.serves(which))) {
        this.#progress(`system calls: ${which.name}`)
        const one = await this.#launch(which, kind)
        if (one.server === undefined) continue
        await this.#warmServer(which, one)
        try {
          let requests = NaN
          const made = await countSystemCalls(counter, one.server.pid, async () => {
            requests = (await this.#load.run(this.#job(which, one))).sessionRequests
          })
          const byName = Object.fromEntries(Object.entries(made).map(([name, count]) => [name, count / requests]).filter(([, count]) => Number(count) > RARE_CALLS))
          calls.push({ case: which.name, server: kind.name, counter, io: ioCalls(made) / requests, all: allCalls(made) / requests, byName })
        } catch (error) {
          this.#note(`system calls of ${kind.name}: ${(error as Error).message}`)
        }
        await one.server.stop()
      }
    }
  }

  /** Whether serving allocates, in a run of its own: long, and with what the runtime prints. */
  async #countCollections (): Promise<void> {
    const which = this.#counted().find(({ backing }) => backing === 'tmpfs')
    const auto = this.#servers.find(({ name }) => name === AUTO)
    if (which === undefined || auto === undefined) return
    this.#progress(`garbage collections: ${which.name}`)
    const one = await this.#launch(which, tracingCollections(auto))
    const { server } = one
    if (server === undefined) return
    const collections = async (): Promise<number> => {
      await sleep(SETTLE_SECONDS * 1000)
      const before = countScavenges(server.output)
      await sleep(COLLECTED_SECONDS * 1000)
      return countScavenges(server.output) - before
    }
    try {
      const load = this.#load.run({ ...this.#job(which, one), milliseconds: (SETTLE_SECONDS + COLLECTED_SECONDS + 1) * 1000 })
      const [count] = await Promise.all([collections(), load])
      this.results.collections.push({ case: which.name, server: AUTO, seconds: COLLECTED_SECONDS, count })
    } catch (error) {
      this.#note(`garbage collections of ${AUTO}: ${(error as Error).message}`)
    }
    await server.stop()
  }

  #serves (kind: ServerKind, first: Case): boolean {
    return this.results.cases.some((which) => setupOf(which) === setupOf(first) && kind.serves(which))
  }

  #place (which: Case): Place {
    return { socket: join(this.#folder, `socket${this.#sockets++}`), image: this.#image(which) }
  }

  /** fio has one of its own, for it leaves no marks. */
  #image ({ backing, disks }: Case, user: 'servers' | 'fio' = 'servers'): string {
    const name = `${backing}${user === 'fio' ? '-fio' : ''}${disks > 1 ? '-part' : ''}.img`
    return join(backing === 'disk' ? this.#diskFolder : this.#folder, name)
  }

  #makeImages (): void {
    const hasFio = this.#servers.some(({ side }) => side === 'fio')
    for (const which of this.results.cases) {
      const { backing, disks } = which
      const image = this.#image(which)
      if (backing === 'null') this.#make(`${image}.0`, (path) => makeHole(path, NULL_BYTES))
      else if (disks > 1) numbered(image, disks).forEach((part) => this.#make(part, (path) => makeImage(path, this.#options.imageBytes / disks)))
      else this.#make(image, (path) => makeImage(path, this.#options.imageBytes))
      if (hasFio && backing !== 'null') this.#make(this.#image(which, 'fio'), (path) => makeImage(path, this.#options.imageBytes))
    }
  }

  #make (path: string, make: (path: string) => void): void {
    if (this.#images.has(path)) return
    this.#progress(`making ${path}`)
    this.#images.set(path, path)
    make(path)
  }

  /** Leaves out what this machine cannot do, and says so. */
  #possible (cases: readonly Case[], notes: string[]): readonly Case[] {
    const missing = new Set<string>()
    const direct = cases.some(({ backing }) => backing === 'disk') ? whyNotDirect(this.#diskFolder) : undefined
    const possible = cases.filter(({ backing, hugePages, depth, blockBytes }) => {
      // A page more for the rings.
      const pagesBytes = Math.ceil(depth * blockBytes / (2 << 20)) * (2 << 20) + (2 << 20)
      if (hugePages && freeHugePages() < pagesBytes) missing.add('no huge pages are free: sysctl vm.nr_hugepages=32 has them reserved')
      else if (backing === 'disk' && direct !== undefined) missing.add(direct)
      else return true
      return false
    })
    notes.push(...missing)
    return possible
  }

  #measured (which: Case, kind: ServerKind): Measured {
    return findOr(this.results.measured, (one) => one.case === which.name && one.server === kind.name,
      () => ({ case: which.name, server: kind.name, side: kind.side, samples: [] }))
  }

  #startOf (which: Case, kind: ServerKind): Start {
    const setup = `${which.backing}${which.queues > 1 ? `, ${which.queues} queues` : ''}${which.disks > 1 ? `, ${which.disks} disks` : ''}`
    return findOr(this.results.starts, (one) => one.setup === setup && one.server === kind.name,
      () => ({ server: kind.name, setup, disks: which.disks, readyAfter: [], first: [], memory: [] }))
  }

  /** @param began when the first round did, in seconds of this run */
  #hasTime (began: number): boolean {
    const { rounds } = this.results
    return rounds === 0 || began + (this.#seconds() - began) * (rounds + 1) / rounds < MINUTES_MAX * 60
  }

  #seconds (): number {
    return (performance.now() - this.#began) / 1000
  }

  #note (text: string): void {
    if (!this.results.notes.includes(text)) this.results.notes.push(text)
  }

  #progress (text: string): void {
    const line = `${Math.round(this.#seconds())} s  ${text}`
    process.stderr.write(process.stderr.isTTY ? `\r\x1b[K${line}` : `${line}\n`)
  }
}

function tracingCollections (kind: ServerKind): ServerKind {
  return {
    ...kind,
    command (which, place) {
      const [node, ...args] = kind.command!(which, place)
      return [node, '--trace-gc', ...args]
    }
  }
}

function findOr<Item> (items: Item[], matches: (item: Item) => boolean, make: () => Item): Item {
  const found = items.find(matches)
  if (found !== undefined) return found
  const made = make()
  items.push(made)
  return made
}

function makeHole (path: string, bytes: number): void {
  writeFileSync(path, '')
  truncateSync(path, bytes)
}

function whyNotDirect (folder: string): string | undefined {
  mkdirSync(folder, { recursive: true })
  const path = join(folder, 'probe')
  try {
    closeSync(openSync(path, constants.O_CREAT | constants.O_RDWR | constants.O_DIRECT, 0o600))
    return undefined
  } catch (error) {
    return `${folder} has no direct I/O (${(error as NodeJS.ErrnoException).code}): --folder takes one on a real disk`
  } finally {
    rmSync(path, { force: true })
  }
}
