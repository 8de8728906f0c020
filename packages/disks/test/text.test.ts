import { deepEqual, equal, throws } from 'node:assert/strict'
import fc from 'fast-check'
import { test } from 'uvu'
import { checkSpec, type DiskSpec } from '../src/spec.ts'
import { formatDisk, parseDisk } from '../src/text.ts'

for (const [text, spec] of [
  ['disk.img', { type: 'raw', path: 'disk.img' }],
  ['raw:path=a:b=c.img,readOnly=true', { type: 'raw', path: 'a:b=c.img', readOnly: true }],
  ['"a,b.img"', { type: 'raw', path: 'a,b.img' }],
  ['/dev/disk/by-path/pci-0000:00:1f.2', { type: 'raw', path: '/dev/disk/by-path/pci-0000:00:1f.2' }],
  ['ram:capacity=64M', { type: 'ram', capacity: 64 << 20 }],
  ['overlay:base=base.img,file=vm1.ovl', { type: 'overlay', base: { type: 'raw', path: 'base.img' }, file: 'vm1.ovl' }],
  ['overlay:file=vm1.ovl', { type: 'overlay', file: 'vm1.ovl' }],
  ['throttle:ops=1000,disk=[overlay:base=base.img,file=vm1.ovl]', {
    type: 'throttle', disk: { type: 'overlay', base: { type: 'raw', path: 'base.img' }, file: 'vm1.ovl' }, ops: { size: 1000 }
  }],
  ['throttle:bytes=[size=10M,oneTimeBurst=1G],disk=[a b.img]', { type: 'throttle', disk: { type: 'raw', path: 'a b.img' }, bytes: { size: 10 << 20, oneTimeBurst: 2 ** 30 } }],
  ['faulty:disk=x.img,rules=[[fault=[kind=late,milliseconds=5],operation=read],[fault=short,at=3]],seed=7', {
    type: 'faulty', disk: { type: 'raw', path: 'x.img' }, rules: [{ fault: { kind: 'late', milliseconds: 5 }, operation: 'read' }, { fault: { kind: 'short' }, at: 3 }], seed: 7
  }],
  ['nbd://storage.example/a,b', { type: 'nbd', uri: 'nbd://storage.example/a,b' }],
  ['NBD://[::1]:10810/x', { type: 'nbd', uri: 'NBD://[::1]:10810/x' }],
  ['nbd:uri=nbd+unix:///x?socket=/run/nbd.sock,connections=4,timeout=1000,reconnect=[patience=10,unflushed=trust]', {
    type: 'nbd', uri: 'nbd+unix:///x?socket=/run/nbd.sock', connections: 4, timeout: 1000, reconnect: { patience: 10, unflushed: 'trust' }
  }],
  ['nbd:uri="nbd://[::1]/a,b"', { type: 'nbd', uri: 'nbd://[::1]/a,b' }],
  ['overlay:base=nbd://storage.example/golden,file=vm1.ovl', { type: 'overlay', base: { type: 'nbd', uri: 'nbd://storage.example/golden' }, file: 'vm1.ovl' }],
  ['throttle:disk=[overlay:file=vm1.ovl,base="nbds://[::1]/x"],ops=7', {
    type: 'throttle', disk: { type: 'overlay', base: { type: 'nbd', uri: 'nbds://[::1]/x' }, file: 'vm1.ovl' }, ops: { size: 7 }
  }],
  ['encrypted:keyFile=key,disk=[nbd://storage.example]', { type: 'encrypted', disk: { type: 'nbd', uri: 'nbd://storage.example' }, keyFile: 'key' }],
  ['throttle:ops=7,disk=[module:path=./my-disk.js,options=[size=1M,of="a,b"]]', {
    type: 'throttle', disk: { type: 'module', path: './my-disk.js', options: { size: '1M', of: 'a,b' } }, ops: { size: 7 }
  }],
  ['module:path=./cache.js,disk=[nbd://host/x]', { type: 'module', path: './cache.js', disk: { type: 'nbd', uri: 'nbd://host/x' } }],
  ['raw:path=nbd://x', { type: 'raw', path: 'nbd://x' }],
  ['faulty:disk=x.img,rules=[]', { type: 'faulty', disk: { type: 'raw', path: 'x.img' }, rules: [] }]
] as const) {
  test(`${text} is understood`, () => deepEqual(parseDisk(text), spec))
}

for (const [text, message] of [
  ['', /^⟪here⟫: a value is needed$/],
  ['iscsi:host=x', /^iscsi:⟪here⟫host=x: there is no type 'iscsi' \(a path with a colon is written as raw:path=…\) is wrong$/],
  ['nbd:uri=http://x', /^disk\.uri: "http:\/\/x" is no NBD URI: /],
  ['overlay:base=nbd://host:port/x,file=b', /^disk\.base\.uri: .*"host:port" is no host and port$/],
  ['overlay:base=nbd://[::1]/x,file=b', /⟪here⟫\[::1\]/],
  ['raw:', /a disk of type raw needs path/],
  ['raw:path', /^raw:⟪here⟫path: an option, name=value, is needed$/],
  ['raw:path=', /^raw:path=⟪here⟫: a value is needed$/],
  ['raw:path=a,', /^raw:path=a,⟪here⟫: an option, name=value, is needed$/],
  ['raw:path=a,path=b', /'path' is there twice is wrong/],
  ['raw:path=a]', /⟪here⟫\]: nothing more, or a comma and an option is needed/],
  ['raw:path="a', /⟪here⟫"a: a value is needed/],
  ['raw:path="\\q"', /is no string as in JSON is wrong/],
  ['throttle:disk=[raw:path=a', /⟪here⟫: '\]' is needed/],
  ['overlay:base=raw:path=a,file=b', /a disk in a disk stands in brackets, \[raw:…\]/],
  ['overlay:base=base.img,file=b,pth=c', /^disk\.pth: a disk of type overlay has no such option/],
  ['module:path=a,options=b', /^disk\.options: names and values are needed: not "b"$/],
  ['overlay:__proto__=x,file=b', /an option, name=value, is needed/],
  ['overlay:constructor=x,file=b', /^disk\.constructor: /]
] as const) {
  test(`${text} is refused, and where`, () => throws(() => parseDisk(text), { code: 'ERR_DISK_SPEC', message }))
}

const text = fc.oneof(fc.constantFrom('a.img', 'x:y', 'a=b', 'a,b]', '[raw:path=x]', '"', '\\', ' ', 'true', '7'), fc.string({ minLength: 1, unit: 'binary' }))
const size = fc.oneof(fc.nat(), fc.maxSafeNat())
const bucket = fc.record({ size, refillTime: fc.nat(), oneTimeBurst: size }, { requiredKeys: ['size'] })
const rule = fc.record({
  fault: fc.record({ kind: text, code: text, milliseconds: fc.nat() }, { requiredKeys: ['kind'] }), operation: text, at: fc.nat(), probability: fc.constantFrom(0, 0.25, 1), offset: size, length: size
}, { requiredKeys: ['fault'] })
const { disk: anyDisk } = fc.letrec<{ disk: DiskSpec }>((tie) => ({
  disk: fc.oneof(
    { maxDepth: 4, withCrossShrink: true },
    fc.record({ type: fc.constant('raw'), path: text, readOnly: fc.boolean() }, { requiredKeys: ['type', 'path'] }),
    fc.record({ type: fc.constant('ram'), capacity: size, blockSize: size }, { requiredKeys: ['type', 'capacity'] }),
    fc.record({ type: fc.constant('nbd'), uri: fc.constantFrom('nbd://[::1]:7/a,b', 'nbd+unix:///"x"?socket=/s', 'nbds://x'), connections: fc.nat(), reconnect: fc.record({ patience: fc.nat() }) }, { requiredKeys: ['type', 'uri'] }),
    fc.record({ type: fc.constant('overlay'), base: tie('disk'), file: text, readOnly: fc.boolean(), capacity: size, clusterSize: size }, { requiredKeys: ['type', 'file'] }),
    fc.record({ type: fc.constant('throttle'), disk: tie('disk'), ops: bucket, bytes: bucket }, { requiredKeys: ['type', 'disk'] }),
    fc.record({ type: fc.constant('encrypted'), disk: tie('disk'), keyFile: text, format: fc.boolean(), discards: fc.boolean() }, { requiredKeys: ['type', 'disk', 'keyFile'] }),
    fc.record({
      type: fc.constant('module'), path: text, options: fc.dictionary(fc.stringMatching(/^[A-Za-z]\w{0,5}$/), fc.string(), { noNullPrototype: true }), disk: tie('disk')
    }, { requiredKeys: ['type', 'path'] }),
    fc.record({ type: fc.constant('faulty'), disk: tie('disk'), rules: fc.array(rule, { maxLength: 3 }), seed: fc.nat() }, { requiredKeys: ['type', 'disk', 'rules'] })
  ) as fc.Arbitrary<DiskSpec>
}))

test('whatever is written in one line is read back', () => {
  fc.assert(fc.property(anyDisk, (spec) => deepEqual(parseDisk(formatDisk(spec)), checkSpec(spec))), { numRuns: 2000 })
})

test('whatever text there is, it is understood or refused as such', () => {
  const pieces = fc.array(fc.oneof(fc.constantFrom('[', ']', ',', '=', ':', '"', '\\', 'raw:', 'nbd:uri=', 'nbd://', 'path=', 'throttle:disk=', 'ops=', 'faulty:rules=', 'a', '7'), fc.string()))
  fc.assert(fc.property(pieces, (all) => {
    const line = all.join('')
    let spec: DiskSpec
    try {
      spec = parseDisk(line)
    } catch (error) {
      return equal((error as { code: string }).code, 'ERR_DISK_SPEC')
    }
    deepEqual(parseDisk(formatDisk(spec)), spec)
  }), { numRuns: 5000 })
})

test.run()
