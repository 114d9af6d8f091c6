#!lua name=openveil
-- The one door through which consent changes (openveil, FORMATS 4). A Redis Function runs to its end before anything
-- else does, so a contact's record, the partition's epoch, the chained hash and the change stream move together.
-- Keys of partition p, all in one cluster slot: ov:{p}:meta, ov:{p}:bits, ov:{p}:changes, ov:{p}:changes.new,
-- ov:{p}:notices, ov:{p}:links, ov:{p}:applied, ov:{p}:c:<tenant>:<bucket>.
-- common/consent.c and common/consent_entry.c read what is written here; common/CONSENT.md shows how to call it.

local VERSION = 4             -- of this library; CONSENT_LIBRARY_VERSION in common/consent_client.c
local SCHEMA = '1'            -- of the stored keys
local RECORD_VERSION = 2
local DAYS_FOLLOW = 8         -- in the record's second byte
local STREAM_LENGTH = 250000  -- changes that the stream keeps; CONSENT_STREAM_KEEPS in common/consent_job.h
local CHANGES_MAX = 1000
local APPLIED_LENGTH = 10000
local FORGOTTEN_MAX = 500     -- entries of the stream that one call erases
local REWRITTEN_STEP = 10000  -- entries of the stream that one call copies
local REWRITE_LEFT_S = 3600   -- after which a copy that nobody goes on with is gone
local LINKS_LOOKED_AT = 20    -- for one that has become useless, at each call that makes one
local JOIN_GAP = 125000       -- epochs that a joined branch may be ahead of the log; less than STREAM_LENGTH
local JOINS_MAX = 16
local BITS_DEFAULT = 8
local BITS_MAX = 28
local BUCKET_CONTACTS = 64    -- buckets of a sized tenant begin half to wholly as full; Redis packs up to 128
local BUCKET_CONTACTS_MAX = 128  -- what Redis packs
local MOVED_MAX = 250000      -- contacts that one call may move: about a second
local MOVED_STEP = 10000       -- contacts that one step of a longer move copies
local SAMPLED_BUCKETS = 4096
local ERASED_BUCKETS_MAX = 1048576
local NOTICES_MAX = 1000       -- NOTICES_MAX in common/consent_job.h
local NOBODY = '0000000000000000' -- the pseudonym of a change that is about no contact
local NO_HASH = '0000000000000000000000000000000000000000'
local INFORMED, GRANTED = 1, 2
local STATES = {informed = INFORMED, granted = GRANTED, refused = 3, withdrawn = 4, objected = 5}

local function leaves(state)
    return state > GRANTED
end

-- A canonical decimal number within bounds, or nil.
local function integer(text, min, max)
    if not text:find('^%d+$') or #text > 15 or (#text > 1 and text:sub(1, 1) == '0') then
        return nil
    end
    local n = tonumber(text)
    return n >= min and n <= max and n or nil
end

local function decimal(n)
    return string.format('%.0f', n)
end

-- The partition's place in the chain, or nil and an error reply.
local function open_partition(key, mode)
    if type(key) ~= 'string' or not key:find('^ov:{%d+}:meta$') then
        return nil, redis.error_reply('OVARGS the key must be ov:{PARTITION}:meta')
    end
    if mode ~= 'production' and mode ~= 'rehearsal' then
        return nil, redis.error_reply('OVARGS the mode must be production or rehearsal')
    end
    local meta = redis.call('HMGET', key, 'mode', 'epoch', 'hash', 'version', 'seed')
    local part = {key = key, prefix = key:sub(1, -5), mode = mode, epoch = 0, hash = NO_HASH, seed = meta[5] or '',
        bits = {}}
    part.new = not meta[1]
    if part.new then
        if redis.call('EXISTS', part.prefix .. 'changes', part.prefix .. 'changes.new', part.prefix .. 'bits',
            part.prefix .. 'notices') ~= 0 then
            return nil, redis.error_reply('OVDAMAGED ' .. key .. ' is gone but its partition is not empty: repair it')
        end
        return part
    end
    if meta[1] ~= mode then
        return nil, redis.error_reply('OVMODE this Redis belongs to ' .. meta[1] .. ', the call to ' .. mode)
    end
    if meta[4] ~= SCHEMA then
        return nil, redis.error_reply('OVVERSION the data is of version ' .. tostring(meta[4]) .. ', not ' .. SCHEMA)
    end
    part.epoch = integer(meta[2] or '', 0, 2 ^ 49)
    part.hash = meta[3]
    if not part.epoch or not part.hash or not part.hash:find('^%x+$') or #part.hash ~= 40 then
        return nil, redis.error_reply('OVDAMAGED ' .. key .. ' has no epoch or hash: repair it')
    end
    return part
end

local function save_partition(part)
    redis.call('HSET', part.key, 'mode', part.mode, 'epoch', decimal(part.epoch), 'hash', part.hash, 'version', SCHEMA,
        'seed', part.seed)
end

local function bits_of(part, tenant)
    local bits = part.bits[tenant]
    if bits == nil then
        local stored = redis.call('HGET', part.prefix .. 'bits', tenant)
        bits = stored and integer(stored, 0, BITS_MAX)
        if stored and not bits then
            error('the bucket bits of a tenant are damaged: repair ' .. part.prefix .. 'bits')
        end
        part.bits[tenant] = bits or false
    end
    return bits
end

-- The bucket's key, the contact's field in it, and its number. `kind`: `m` in the copy that a move makes.
local function place(part, tenant, pseudonym, bits, kind)
    local upper = tonumber(pseudonym:sub(1, BITS_MAX / 4), 16)
    local bucket = math.floor(upper / 2 ^ (BITS_MAX - bits))
    local field = pseudonym:sub(1 + 2 * math.floor(bits / 8)):gsub('%x%x', function(pair)
        return string.char(tonumber(pair, 16))
    end)
    return part.prefix .. (kind or 'c') .. ':' .. tenant .. ':' .. string.format('%x', bucket), field, bucket
end

-- The move of a tenant's buckets that is under way: to how many bits, and the first bucket that is not copied. Or nil.
local function move_of(part, tenant)
    if part.any_move == nil then
        part.any_move = redis.call('EXISTS', part.prefix .. 'moves') == 1
    end
    local stored = part.any_move and redis.call('HGET', part.prefix .. 'moves', tenant)
    if not stored then
        return nil
    end
    local bits, copied = stored:match('^(%d+) (%d+)$')
    if not bits then
        error('a move of buckets is damaged: repair ' .. part.prefix .. 'moves')
    end
    return {bits = tonumber(bits), copied = tonumber(copied)}
end

-- Writes the record of a contact at its place (nil: removes it), and the same in the copy where that has its bucket.
local function put(part, tenant, pseudonym, at, value)
    local move = move_of(part, tenant)
    local copy, copy_field
    if move and at.number < move.copied then
        copy, copy_field = place(part, tenant, pseudonym, move.bits, 'm')
    end
    if value then
        redis.call('HSET', at.bucket, at.field, value)
    else
        redis.call('HDEL', at.bucket, at.field)
    end
    if copy and value then
        redis.call('HSET', copy, copy_field, value)
    elseif copy then
        redis.call('HDEL', copy, copy_field)
    end
end

-- A change id is 64 bits: two numbers of 32, since Lua's are doubles. From canonical decimal text, or nil.
local function read_id(text)
    if not text:find('^%d+$') or #text > 20 or (#text > 1 and text:sub(1, 1) == '0') then
        return nil
    end
    local high, low = 0, 0
    for at = 1, #text, 6 do
        local digits = text:sub(at, at + 5)
        local scale = 10 ^ #digits
        local value = low * scale + tonumber(digits)
        low = value % 2 ^ 32
        high = high * scale + math.floor(value / 2 ^ 32)
    end
    if high >= 2 ^ 32 then
        return nil
    end
    return {high = high, low = low}
end

local function id_of(epoch)
    return {high = math.floor(epoch / 2 ^ 32), low = epoch % 2 ^ 32}
end

-- Version 1 has both days and no id. In version 2 the days that a state begins with are left out.
local function unpack_record(value)
    if not value then
        return {state = 0}
    end
    local version, head = value:byte(1, 2)
    if version == 1 and #value >= 9 then
        local _, state, since, allowed_since, granted_since = struct.unpack('>BBHHH', value)
        return {state = state, since = since, allowed_since = allowed_since, granted_since = granted_since,
            id = {high = 0, low = 0}, notice = value:sub(9)}
    end
    local id_len = head and math.floor(head / 16) or 9
    local days = head and bit.band(head, DAYS_FOLLOW) ~= 0
    local at = days and 9 or 5
    if version ~= RECORD_VERSION or id_len > 8 or #value < at + id_len then
        return {unreadable = true}
    end
    local record = {state = head % DAYS_FOLLOW, notice = value:sub(at + id_len)}
    record.since = struct.unpack('>H', value, 3)
    if days then
        record.allowed_since, record.granted_since = struct.unpack('>HH', value, 5)
    else
        record.allowed_since = leaves(record.state) and 0 or record.since
        record.granted_since = record.state == GRANTED and record.since or 0
    end
    local high, low = struct.unpack('>I4I4', string.rep('\0', 8 - id_len) .. value:sub(at, at + id_len - 1))
    record.id = {high = high, low = low}
    return record
end

local function pack_record(record)
    local id = struct.pack('>I4I4', record.id.high, record.id.low):gsub('^%z+', '')
    local plain = record.allowed_since == (leaves(record.state) and 0 or record.since)
        and record.granted_since == (record.state == GRANTED and record.since or 0)
    return struct.pack('>BBH', RECORD_VERSION, #id * 16 + (plain and 0 or DAYS_FOLLOW) + record.state, record.since)
        .. (plain and '' or struct.pack('>HH', record.allowed_since, record.granted_since)) .. id .. record.notice
end

-- The words of a change, checked; nil and why not. `with_id`: the sixth is its change id.
local function read_change(args, at, today, with_id)
    local change = {tenant = args[at], pseudonym = args[at + 1]:lower(), name = args[at + 2], notice = args[at + 4]}
    change.state = STATES[change.name]
    change.since = integer(args[at + 3], 1, 65535)
    if not integer(change.tenant, 0, 4294967295) then
        return nil, 'invalid: the tenant is not a number from 0 to 4294967295'
    elseif #change.pseudonym ~= 16 or not change.pseudonym:find('^%x+$') then
        return nil, 'invalid: the pseudonym is not 16 hex digits'
    elseif not change.state then
        return nil, 'invalid: the state is not informed, granted, refused, withdrawn or objected'
    elseif not change.since then
        return nil, 'invalid: the day is not a number from 1 to 65535'
    elseif change.since > today + 1 then
        return nil, 'invalid: the day is after tomorrow'
    elseif #change.notice < 1 or #change.notice > 32 or not change.notice:find('^[\32-\126]+$') then
        return nil, "invalid: the notice's version is not 1 to 32 printable ASCII characters"
    end
    if with_id and args[at + 5] ~= '-' then
        change.id = read_id(args[at + 5])
        if not change.id then
            return nil, 'invalid: the change id is not - or a number from 0 to 18446744073709551615'
        end
        change.id_text = args[at + 5]
    end
    return change
end

-- A notice of this partition's store: what it names as bits, and from which day it holds; nil where it is not known.
-- Until a first notice is added all of them are known, and name everything.
local function notice_of(part, version)
    if part.any_notice == nil then
        part.any_notice = redis.call('EXISTS', part.prefix .. 'notices') == 1
    end
    if not part.any_notice then
        return {purposes = 3, from = 0}
    end
    local value = redis.call('HGET', part.prefix .. 'notices', version)
    if not value then
        return nil
    end
    local purposes, from = value:match('^([123]) %S+ (%d+) %x+$')
    if not purposes then
        error('a notice is damaged: repair ' .. part.prefix .. 'notices')
    end
    return {purposes = tonumber(purposes), from = tonumber(from)}
end

-- Why the notice forbids an allowing change, or nil.
local function notice_refusal(part, change)
    local notice = notice_of(part, change.notice)
    if not notice then
        return 'refused: the notice is not known: openveil notice add'
    elseif change.since < notice.from then
        return 'refused: the notice holds only from a later day'
    end
    return nil
end

-- Whether the new notice names a purpose that the old one did not, as far as can be told.
local function names_more(part, old, new)
    if old == new then
        return false
    end
    local before, after = notice_of(part, old), notice_of(part, new)
    return not before or not after or bit.band(after.purposes, bit.bnot(before.purposes)) ~= 0
end

-- Whether the purposes of two notices differ, or cannot be told.
local function names_other(part, one, other)
    return names_more(part, one, other) or names_more(part, other, one)
end

-- Which of a change and a record decides, whatever came first: `informed` is legal only before all others; then the
-- day; on one day leaving wins; then the change id. State and notice settle it between changes that share an id.
local function decides(change, old)
    if (change.state == INFORMED) ~= (old.state == INFORMED) then
        return old.state == INFORMED
    elseif change.since ~= old.since then
        return change.since > old.since
    elseif leaves(change.state) ~= leaves(old.state) then
        return leaves(change.state)
    elseif change.id.high ~= old.id.high then
        return change.id.high > old.id.high
    elseif change.id.low ~= old.id.low then
        return change.id.low > old.id.low
    elseif change.state ~= old.state then
        return change.state > old.state
    end
    return change.notice > old.notice
end

-- Why a change that does not decide is refused.
local function refusal(change, old)
    if change.state == INFORMED and old.state ~= INFORMED then
        return 'refused: informed can follow only unknown or informed'
    elseif change.since < old.since then
        return 'refused: the record holds a later day'
    elseif leaves(old.state) and not leaves(change.state) then
        return 'refused: the contact left on that day'
    end
    return 'refused: the record holds a later change of that day'
end

-- The record after a change that decides. What a wider notice adds has not been allowed before, so its days begin anew.
local function follow(part, change, old)
    local record = {state = change.state, since = change.since, id = change.id, notice = change.notice,
        allowed_since = 0, granted_since = 0}
    if leaves(change.state) then
        return record
    end
    local goes_on = (old.state == INFORMED or old.state == GRANTED) and change.since >= old.since
        and not names_more(part, old.notice, change.notice)
    record.allowed_since = goes_on and old.allowed_since or change.since
    if change.state == GRANTED then
        record.granted_since = goes_on and old.state == GRANTED and old.granted_since or change.since
    end
    return record
end

-- The record after one that does not: its days no longer reach back over a day on which the contact had left, or was
-- shown other purposes. What else was between cannot be told, so they begin with the record's own. Nil: nothing changes.
local function cut_days(part, change, old)
    if leaves(old.state) or change.since > old.since
        or not (leaves(change.state) or names_other(part, change.notice, old.notice)) then
        return nil
    end
    local record = {state = old.state, since = old.since, id = old.id, notice = old.notice}
    record.granted_since = (old.state ~= GRANTED or old.granted_since > change.since) and old.granted_since or old.since
    -- Informed is legal only before all others, so what it allowed before the grant does not stand after one of them.
    record.allowed_since = change.state == INFORMED and old.allowed_since > change.since and old.allowed_since
        or old.state == GRANTED and record.granted_since or old.since
    if record.allowed_since == old.allowed_since and record.granted_since == old.granted_since then
        return nil
    end
    return record
end

-- The next epoch: chained, and in the stream. It can be refused (an entry of this epoch exists already), so it comes
-- before everything else that is written. The salt tells nothing once it is erased: the seed it came from is gone.
local function advance(part, tenant, pseudonym, word, since, notice, id)
    local epoch = part.epoch + 1
    local salt = redis.sha1hex(part.seed .. ' salt')
    local content = redis.sha1hex(salt .. ' ' .. tenant .. ' ' .. pseudonym .. ' ' .. word .. ' ' .. since .. ' ' .. notice
        .. ' ' .. id)
    local hash = redis.sha1hex(part.hash .. ' ' .. content)
    redis.call('XADD', part.prefix .. 'changes', 'MAXLEN', '~', STREAM_LENGTH, decimal(epoch) .. '-0', 't', tenant,
        'p', pseudonym, 's', word, 'd', since, 'n', notice, 'c', id, 'z', salt, 'h', hash)
    part.epoch, part.hash, part.changed = epoch, hash, true
    part.seed = redis.sha1hex(part.seed .. ' next ' .. content)
end

-- One change: the receipt, or a string that begins with "refused:". `again`: it is entered though it changes nothing.
local function apply(part, change, again)
    local bits = bits_of(part, change.tenant)
    local chosen = bits or BITS_DEFAULT
    local bucket, field, number = place(part, change.tenant, change.pseudonym, chosen)
    local value = redis.call('HGET', bucket, field)
    local old = unpack_record(value)
    local same = old.state == change.state and old.since == change.since and old.notice == change.notice
        and (not change.id or (change.id.high == old.id.high and change.id.low == old.id.low))
    if same and not again then
        return part.epoch
    end
    change.id = change.id or same and old.id or id_of(part.epoch + 1)
    local fresh = old.state == 0 or (old.unreadable and leaves(change.state))
    if old.unreadable and not fresh then
        return 'refused: the record was written by another version and can only be left'
    end
    local now = fresh or same or decides(change, old)
    local new = now and (same and old or follow(part, change, old)) or cut_days(part, change, old)
    local why = (not new and not again and refusal(change, old))
        or (new and not same and not leaves(change.state) and notice_refusal(part, change))
    if why then
        return why
    end
    advance(part, change.tenant, change.pseudonym, (now and '' or 'late-') .. change.name, decimal(change.since),
        change.notice, change.id_text or '-')
    if not bits then
        redis.call('HSET', part.prefix .. 'bits', change.tenant, chosen)
        part.bits[change.tenant] = chosen
    end
    if new then
        put(part, change.tenant, change.pseudonym, {bucket = bucket, field = field, number = number}, pack_record(new))
    end
    return now and part.epoch or refusal(change, old)
end

-- All changes of a call.
local function apply_all(keys, args, words, again)
    local n = (#args - 2) / words
    if #keys ~= 1 or n < 1 or n ~= math.floor(n) or n > CHANGES_MAX then
        return redis.error_reply('OVARGS one key, the mode, today and 1 to 1000 changes of ' .. words .. ' words are needed')
    end
    local today = integer(args[2], 1, 65535)
    if not today then
        return redis.error_reply('OVARGS today is not a number from 1 to 65535')
    end
    local part, failure = open_partition(keys[1], args[1])
    if not part then
        return failure
    end
    local results = {}
    local ok, stopped = true, nil
    for i = 1, n do
        local change, why = read_change(args, 3 + (i - 1) * words, today, words > 5)
        if change then
            -- What went through before an unexpected error must still reach the epoch and hash below.
            ok, why = pcall(apply, part, change, again)
            if not ok then
                stopped = type(why) == 'table' and (why.err or why[1]) or why
                break
            end
        end
        results[i] = why
    end
    if part.changed then
        save_partition(part)
    end
    if not ok then
        return redis.error_reply('OVDAMAGED ' .. tostring(stopped))
    end
    return results
end

-- FCALL openveil_set 1 ov:{PARTITION}:meta MODE TODAY (TENANT PSEUDONYM STATE SINCE NOTICE)...
-- An array with, for each change, the receipt (an integer) or why not (a string).
local function openveil_set(keys, args)
    return apply_all(keys, args, 5, false)
end

-- FCALL openveil_apply 1 ov:{PARTITION}:meta MODE TODAY (TENANT PSEUDONYM STATE SINCE NOTICE CHANGE_ID)...
local function openveil_apply(keys, args)
    return apply_all(keys, args, 6, false)
end

-- FCALL openveil_enter 1 ov:{PARTITION}:meta MODE TODAY (TENANT PSEUDONYM STATE SINCE NOTICE CHANGE_ID)...
-- As openveil_apply; every change gets an entry, also one that changes nothing any more. For a repair, which enters the
-- changes of a branch again.
local function openveil_enter(keys, args)
    return apply_all(keys, args, 6, true)
end

-- FCALL openveil_size_hint 1 ov:{PARTITION}:meta MODE TENANT CONTACTS
-- Before a tenant's first contact: chooses how many buckets it gets. The bits in force, chosen now or earlier.
local function openveil_size_hint(keys, args)
    local tenant = args[2] and integer(args[2], 0, 4294967295)
    local contacts = args[3] and integer(args[3], 0, 2 ^ 49)
    if #keys ~= 1 or #args ~= 3 or not tenant or not contacts then
        return redis.error_reply('OVARGS one key, the mode, a tenant and a number of contacts are needed')
    end
    local part, failure = open_partition(keys[1], args[1])
    if not part then
        return failure
    end
    local bits = bits_of(part, args[2])
    if bits then
        return bits
    end
    bits = 0
    while bits < BITS_MAX and contacts > BUCKET_CONTACTS * 2 ^ bits do
        bits = bits + 1
    end
    if part.new then
        save_partition(part)
    end
    redis.call('HSET', part.prefix .. 'bits', args[2], bits)
    return bits
end

-- The tenant's bucket of that number under a layout.
local function bucket_key(part, tenant, bucket)
    return part.prefix .. 'c:' .. tenant .. ':' .. string.format('%x', bucket)
end

-- What the calls about a whole tenant share: partition, bits (false: no contact), or nil and an error reply.
local function open_tenant(keys, args, n_args)
    if #keys ~= 1 or #args ~= n_args or not integer(args[2], 1, 65535) or not integer(args[3], 0, 4294967295) then
        return nil, redis.error_reply('OVARGS one key, the mode, today and a tenant are needed')
    end
    local part, failure = open_partition(keys[1], args[1])
    if not part then
        return nil, failure
    end
    return part, bits_of(part, args[3])
end

-- FCALL openveil_erase_tenant 1 ov:{PARTITION}:meta MODE TODAY TENANT
-- Removes every record of a tenant; the receipt, or a string that says why not.
local function openveil_erase_tenant(keys, args)
    local part, bits = open_tenant(keys, args, 3)
    if not part then
        return bits
    end
    local tenant = args[3]
    if not bits then
        return part.epoch
    elseif 2 ^ bits > ERASED_BUCKETS_MAX then
        return 'refused: the tenant has more buckets than one call may remove'
    end
    advance(part, tenant, NOBODY, 'erased', args[2], '-', '-')
    for bucket = 0, 2 ^ bits - 1 do
        redis.call('UNLINK', bucket_key(part, tenant, bucket))
    end
    local move = move_of(part, tenant)
    if move then
        for bucket = 0, 2 ^ move.bits - 1 do
            redis.call('UNLINK', part.prefix .. 'm:' .. tenant .. ':' .. string.format('%x', bucket))
        end
        redis.call('HDEL', part.prefix .. 'moves', tenant)
    end
    redis.call('HDEL', part.prefix .. 'bits', tenant)
    save_partition(part)
    return part.epoch
end

-- Writes a bucket's contacts by another number of bits, into the copy or (`kind` nil) the layout itself; their number.
local function copy_bucket(part, tenant, bucket, bits, new_bits, kind)
    local fields = redis.call('HGETALL', bucket_key(part, tenant, bucket))
    if not kind then
        redis.call('UNLINK', bucket_key(part, tenant, bucket))
    end
    local fixed = bits - bits % 8
    local head = string.format('%0' .. math.max(fixed / 4, 1) .. 'x', math.floor(bucket / 2 ^ (bits - fixed)))
    for i = 1, #fields, 2 do
        local pseudonym = (fixed > 0 and head or '') .. fields[i]:gsub('.', function(char)
            return string.format('%02x', char:byte())
        end)
        local to, field = place(part, tenant, pseudonym, new_bits, kind)
        redis.call('HSET', to, field, fields[i + 1])
    end
    return #fields / 2
end

-- What both ways to cut buckets anew share: partition, bits and new bits, or nil and the answer.
local function open_rebucket(keys, args)
    local part, bits = open_tenant(keys, args, 4)
    if not part then
        return nil, bits
    end
    local new_bits = integer(args[4], 0, BITS_MAX)
    if not new_bits or 2 ^ new_bits > ERASED_BUCKETS_MAX then
        return nil, 'invalid: the bits are not a number from 0 to 20'
    elseif not bits then
        return nil, 'refused: the tenant has no contact'
    elseif 2 ^ bits > ERASED_BUCKETS_MAX then
        return nil, 'refused: the tenant has more buckets than one call may move'
    end
    return part, bits, new_bits
end

-- FCALL openveil_rebucket 1 ov:{PARTITION}:meta MODE TODAY TENANT BITS
-- Cuts the tenant's buckets by another number of bits, in one step; the receipt, or a string that says why not.
local function openveil_rebucket(keys, args)
    local part, bits, new_bits = open_rebucket(keys, args)
    if not part then
        return bits
    end
    local tenant = args[3]
    if move_of(part, tenant) then
        return 'refused: a longer move is under way'
    elseif bits == new_bits then
        return part.epoch
    end
    local contacts = 0
    for bucket = 0, 2 ^ bits - 1 do
        contacts = contacts + redis.call('HLEN', bucket_key(part, tenant, bucket))
    end
    if contacts > MOVED_MAX then
        return 'refused: the tenant has ' .. decimal(contacts) .. ' contacts; one call moves up to ' .. decimal(MOVED_MAX)
    elseif contacts > BUCKET_CONTACTS_MAX / 2 * 2 ^ new_bits then
        return 'refused: more than 64 contacts a bucket: too few bits for ' .. decimal(contacts) .. ' contacts'
    end
    advance(part, tenant, NOBODY, 'rebucketed', args[2], decimal(new_bits), '-')
    -- With more buckets the last goes first, with fewer the first: then what a bucket is moved into has been emptied
    -- before, or is itself.
    local first, last, step = 0, 2 ^ bits - 1, 1
    if new_bits > bits then
        first, last, step = last, first, -1
    end
    for bucket = first, last, step do
        copy_bucket(part, tenant, bucket, bits, new_bits)
    end
    redis.call('HSET', part.prefix .. 'bits', tenant, new_bits)
    save_partition(part)
    return part.epoch
end

-- The copy takes the place of the buckets. Its keys are renamed one by one: a second for a million of them.
local function move_end(part, tenant, bits, new_bits, today)
    advance(part, tenant, NOBODY, 'rebucketed', today, decimal(new_bits), '-')
    for bucket = 0, 2 ^ bits - 1 do
        redis.call('UNLINK', bucket_key(part, tenant, bucket))
    end
    for bucket = 0, 2 ^ new_bits - 1 do
        local copy = part.prefix .. 'm:' .. tenant .. ':' .. string.format('%x', bucket)
        if redis.call('EXISTS', copy) == 1 then
            redis.call('RENAME', copy, bucket_key(part, tenant, bucket))
        end
    end
    redis.call('HSET', part.prefix .. 'bits', tenant, new_bits)
    redis.call('HDEL', part.prefix .. 'moves', tenant)
    save_partition(part)
end

-- Whether so few bits would overfill the buckets, by a part of them: pseudonyms are spread evenly.
local function too_few_bits(part, tenant, bits, new_bits)
    local sampled, contacts = math.min(2 ^ bits, SAMPLED_BUCKETS), 0
    for bucket = 0, sampled - 1 do
        contacts = contacts + redis.call('HLEN', bucket_key(part, tenant, bucket))
    end
    return contacts / sampled * 2 ^ bits > BUCKET_CONTACTS_MAX / 2 * 2 ^ new_bits
end

-- FCALL openveil_rebucket_step 1 ov:{PARTITION}:meta MODE TODAY TENANT BITS
-- A part of what openveil_rebucket does, for tenants with more contacts than one call may move: copies some buckets, while
-- every change goes into both, and with the last ones puts the copy in place. 0 while there is more to do, then the
-- receipt; or a string that says why not. Calls for one tenant go on with the move that is under way.
local function openveil_rebucket_step(keys, args)
    local part, bits, new_bits = open_rebucket(keys, args)
    if not part then
        return bits
    end
    local tenant = args[3]
    local move = move_of(part, tenant)
    if move and move.bits ~= new_bits then
        return 'refused: a move to ' .. decimal(move.bits) .. ' bits is under way; end it first'
    elseif not move and bits == new_bits then
        return part.epoch
    elseif not move and too_few_bits(part, tenant, bits, new_bits) then
        return 'refused: more than 64 contacts a bucket: too few bits for so many contacts'
    end
    local bucket, contacts = move and move.copied or 0, 0
    while bucket < 2 ^ bits and contacts < MOVED_STEP do
        contacts = contacts + copy_bucket(part, tenant, bucket, bits, new_bits, 'm') + 1
        bucket = bucket + 1
    end
    if bucket < 2 ^ bits then
        redis.call('HSET', part.prefix .. 'moves', tenant, decimal(new_bits) .. ' ' .. decimal(bucket))
        return 0
    end
    move_end(part, tenant, bits, new_bits, args[2])
    return part.epoch
end

-- FCALL openveil_notice_add 1 ov:{PARTITION}:meta MODE TODAY VERSION PURPOSES LANGUAGE FROM HASH
-- PURPOSES: 1 deliverability, 2 inactivity, 3 both. The receipt, or a string that says why not.
local function openveil_notice_add(keys, args)
    local today = #keys == 1 and #args == 7 and integer(args[2], 1, 65535)
    if not today then
        return redis.error_reply('OVARGS one key, the mode, today and the five words of a notice are needed')
    end
    local part, failure = open_partition(keys[1], args[1])
    if not part then
        return failure
    end
    local version, purposes, language, from, hash = args[3], args[4], args[5], args[6], args[7]
    if #version < 1 or #version > 32 or not version:find('^[\32-\126]+$') or version == '-'
        or not purposes:find('^[123]$') or #language > 35 or not language:find('^[%w-]+$')
        or not integer(from, 1, 65535) or #hash ~= 64 or not hash:find('^%x+$') then
        return 'invalid: the words of the notice are wrong'
    end
    local value = purposes .. ' ' .. language .. ' ' .. from .. ' ' .. hash
    local stored = redis.call('HGET', part.prefix .. 'notices', version)
    if stored == value then
        return part.epoch
    elseif stored then
        return 'refused: a notice of that version exists and is another'
    elseif redis.call('HLEN', part.prefix .. 'notices') >= NOTICES_MAX then
        return 'refused: there are as many notices as there may be'
    end
    advance(part, '0', NOBODY, 'notice', from, version .. ' ' .. value, '-')
    redis.call('HSET', part.prefix .. 'notices', version, value)
    save_partition(part)
    return part.epoch
end

-- Removes the content of one entry where it is about that contact; a link keeps its place in the chain.
local function erase_entry(part, id, tenant, pseudonym)
    local found = redis.call('XRANGE', part.prefix .. 'changes', id, id)[1]
    local entry = {}
    for i = 1, found and #found[2] or 0, 2 do
        entry[found[2][i]] = found[2][i + 1]
    end
    if entry.t ~= tenant or entry.p ~= pseudonym then
        return false
    end
    local content = entry.z and redis.sha1hex(entry.z .. ' ' .. entry.t .. ' ' .. entry.p .. ' ' .. entry.s .. ' '
        .. entry.d .. ' ' .. entry.n .. ' ' .. entry.c) or '-'
    redis.call('HSET', part.prefix .. 'links', id:sub(1, -3) .. ':' .. entry.h, content)
    redis.call('XDEL', part.prefix .. 'changes', id)
    redis.call('XDEL', part.prefix .. 'changes.new', id)
    return true
end

-- Links older than what the stream still shows prove nothing any more. A few at a time.
local function drop_links(part)
    local first = redis.call('XRANGE', part.prefix .. 'changes', '-', '+', 'COUNT', 1)[1]
    local oldest = first and tonumber(first[1]:match('^%d+')) or 0
    for _, field in ipairs(redis.call('HRANDFIELD', part.prefix .. 'links', LINKS_LOOKED_AT)) do
        if tonumber(field:match('^%d+')) < oldest then
            redis.call('HDEL', part.prefix .. 'links', field)
        end
    end
end

-- FCALL openveil_forget 1 ov:{PARTITION}:meta MODE TODAY TENANT PSEUDONYM KEEP [EPOCH]...
-- KEEP: `nothing`, or `left` to keep the record of a contact that refused, withdrew or objected. EPOCH: entries of the
-- stream to look at, up to 500; those about the contact go. The receipt, or a string that says why not.
local function openveil_forget(keys, args)
    local tenant, pseudonym, keep = args[3], args[4] and args[4]:lower(), args[5]
    if #keys ~= 1 or #args < 5 or #args > 5 + FORGOTTEN_MAX or not integer(args[2], 1, 65535)
        or not integer(tenant, 0, 4294967295) or #pseudonym ~= 16 or not pseudonym:find('^%x+$') or pseudonym == NOBODY
        or (keep ~= 'nothing' and keep ~= 'left') then
        return redis.error_reply('OVARGS one key, the mode, today, a tenant, a pseudonym, nothing or left and up to 500 '
            .. 'epochs are needed')
    end
    local part, failure = open_partition(keys[1], args[1])
    if not part then
        return failure
    end
    for i = 6, #args do
        if not integer(args[i], 1, 2 ^ 49) then
            return redis.error_reply('OVARGS an epoch is not a number')
        end
    end
    local bits = bits_of(part, tenant)
    local bucket, field, number = place(part, tenant, pseudonym, bits or BITS_DEFAULT)
    local record = unpack_record(bits and redis.call('HGET', bucket, field))
    local goes = record.state ~= 0 and not (keep == 'left' and record.state and leaves(record.state))
    -- First what can fail for want of anything: then all of it is done, or none.
    if not goes and #args == 5 then
        return part.epoch
    end
    advance(part, tenant, NOBODY, 'forgotten', args[2], '-', '-')
    for i = 6, #args do
        erase_entry(part, args[i] .. '-0', tenant, pseudonym)
    end
    if goes then
        put(part, tenant, pseudonym, {bucket = bucket, field = field, number = number}, nil)
    end
    drop_links(part)
    save_partition(part)
    return part.epoch
end

-- The copy takes the stream's place. What was trimmed from the stream meanwhile goes from the copy, too.
local function rewrite_end(changes, copy)
    local first = redis.call('XRANGE', changes, '-', '+', 'COUNT', 1)[1]
    if not first then
        redis.call('UNLINK', copy)
        return
    end
    redis.call('PERSIST', copy)
    redis.call('XTRIM', copy, 'MINID', first[1])
    redis.call('RENAME', copy, changes)
end

-- FCALL openveil_rewrite 1 ov:{PARTITION}:meta MODE TODAY SINCE
-- Redis keeps the bytes of an erased entry until all of the node that it lies in is trimmed. So this copies a part of the
-- stream into a new one, and with the last part puts that in its place: 0 once such a copy was begun at the epoch SINCE or
-- later, else a number above 0, and there is more to do; or a string that says why not. Calls go on with the copy under
-- way, whoever began it: one that was begun too early is ended, for whom it is not, and another one begun.
local function openveil_rewrite(keys, args)
    local since = args[3] and integer(args[3], 0, 2 ^ 49)
    if #keys ~= 1 or #args ~= 3 or not integer(args[2], 1, 65535) or not since then
        return redis.error_reply('OVARGS one key, the mode, today and an epoch are needed')
    end
    local part, failure = open_partition(keys[1], args[1])
    if not part then
        return failure
    elseif since > part.epoch then
        return 'refused: the store has not reached that epoch'
    end
    local stored = redis.call('HMGET', part.key, 'rewriting', 'rewritten')
    local begun, ended = stored[1] and tonumber(stored[1]), stored[2] and tonumber(stored[2])
    if part.epoch == 0 or (ended and ended >= since) then
        return 0
    end
    local changes, copy = part.prefix .. 'changes', part.prefix .. 'changes.new'
    if not begun then
        begun = part.epoch
        redis.call('UNLINK', copy)
        redis.call('HSET', part.key, 'rewriting', decimal(begun))
    end
    local last = redis.call('XREVRANGE', copy, '+', '-', 'COUNT', 1)[1]
    local entries = redis.call('XRANGE', changes, last and '(' .. last[1] or '-', '+', 'COUNT', REWRITTEN_STEP)
    for _, entry in ipairs(entries) do
        redis.call('XADD', copy, entry[1], unpack(entry[2]))
    end
    if #entries == REWRITTEN_STEP then
        redis.call('EXPIRE', copy, REWRITE_LEFT_S)
        return 1
    end
    rewrite_end(changes, copy)
    redis.call('HSET', part.key, 'rewritten', decimal(begun))
    redis.call('HDEL', part.key, 'rewriting')
    return begun >= since and 0 or 1
end

-- FCALL openveil_applied 1 ov:{PARTITION}:meta MODE TODAY WHO EPOCH
-- Who has applied all changes up to an epoch; the time is the entry's id.
local function openveil_applied(keys, args)
    local who = args[3]
    if #keys ~= 1 or #args ~= 4 or #who < 1 or #who > 79 or not who:find('^[%w/._:-]+$')
        or not integer(args[4], 0, 2 ^ 49) then
        return redis.error_reply('OVARGS one key, the mode, today, who and an epoch are needed')
    end
    local part, failure = open_partition(keys[1], args[1])
    if not part then
        return failure
    elseif part.new then
        return 'refused: the partition has no change'
    end
    redis.call('XADD', part.prefix .. 'applied', 'MAXLEN', '~', APPLIED_LENGTH, '*', 'w', who, 'e', args[4])
    return part.epoch
end

-- FCALL openveil_join 1 ov:{PARTITION}:meta MODE TODAY SHARED LOG_EPOCH LOG_HASH
-- Begins a repair: from now on changes are chained to the evidence log's last one, with epochs above those of the log
-- and of this store. It leads on from nothing until openveil_joined ends the repair. The receipt. Beginning again, after
-- an interruption, keeps the shared epoch of the first time where that was lower.
local function openveil_join(keys, args)
    local shared, log_epoch, log_hash = args[3] and integer(args[3], 0, 2 ^ 48), args[4] and integer(args[4], 1, 2 ^ 48),
        args[5]
    if #keys ~= 1 or #args ~= 5 or not integer(args[2], 1, 65535) or not shared or not log_epoch or shared > log_epoch
        or #log_hash ~= 40 or not log_hash:find('^%x+$') then
        return redis.error_reply('OVARGS one key, the mode, today, the shared epoch, the log\'s epoch and hash are needed')
    end
    local part, failure = open_partition(keys[1], args[1])
    if not part then
        return failure
    elseif shared > part.epoch then
        return 'refused: the store has not reached the shared epoch'
    end
    local begun = redis.call('HGET', part.key, 'joining')
    shared = math.min(shared, begun and tonumber(begun:match('^%d+')) or shared)
    part.epoch = math.max(part.epoch, log_epoch) + JOIN_GAP
    part.hash = log_hash:lower()
    local range = decimal(shared) .. '-' .. decimal(part.epoch)
    advance(part, '0', NOBODY, 'joined', args[2], range, '-')
    redis.call('HSET', part.key, 'joining', range .. ' ' .. log_hash:lower())
    save_partition(part)
    return part.epoch
end

-- FCALL openveil_joined 1 ov:{PARTITION}:meta MODE TODAY
-- Ends the repair: the store leads on from everything between the shared epoch and the repair's beginning.
local function openveil_joined(keys, args)
    if #keys ~= 1 or #args ~= 2 or not integer(args[2], 1, 65535) then
        return redis.error_reply('OVARGS one key, the mode and today are needed')
    end
    local part, failure = open_partition(keys[1], args[1])
    if not part then
        return failure
    end
    local ranges = {}
    for word in (redis.call('HGET', part.key, 'joined') or ''):gmatch('%S+') do
        ranges[#ranges + 1] = word
    end
    ranges[#ranges + 1] = (redis.call('HGET', part.key, 'joining') or ''):match('^%S+')
    redis.call('HSET', part.key, 'joined', table.concat(ranges, ' ', math.max(1, #ranges - JOINS_MAX + 1)))
    redis.call('HDEL', part.key, 'joining')
    return part.epoch
end

-- FCALL openveil_stir 1 ov:{PARTITION}:meta BYTES
-- Functions have no randomness of their own: the seed of the salts takes in some of the caller's.
local function openveil_stir(keys, args)
    if #keys ~= 1 or not keys[1]:find('^ov:{%d+}:meta$') or #args ~= 1 or #args[1] < 32 then
        return redis.error_reply('OVARGS one key and 32 random bytes are needed')
    end
    local seed = redis.pcall('HGET', keys[1], 'seed')
    if type(seed) ~= 'table' then
        redis.call('HSET', keys[1], 'seed', redis.sha1hex((seed or '') .. ' stir ' .. args[1]))
    end
    return 1
end

-- Declared as a writing function on purpose: a replica, or a primary that may not write, answers with an error, and a
-- client that asks when it connects learns that its answers could be stale.
local function openveil_version()
    return VERSION
end

redis.register_function('openveil_set', openveil_set)
redis.register_function('openveil_apply', openveil_apply)
redis.register_function('openveil_enter', openveil_enter)
redis.register_function('openveil_forget', openveil_forget)
redis.register_function('openveil_rewrite', openveil_rewrite)
redis.register_function('openveil_applied', openveil_applied)
redis.register_function('openveil_join', openveil_join)
redis.register_function('openveil_joined', openveil_joined)
redis.register_function('openveil_stir', openveil_stir)
redis.register_function('openveil_size_hint', openveil_size_hint)
redis.register_function('openveil_erase_tenant', openveil_erase_tenant)
redis.register_function('openveil_rebucket', openveil_rebucket)
redis.register_function('openveil_rebucket_step', openveil_rebucket_step)
redis.register_function('openveil_notice_add', openveil_notice_add)
redis.register_function('openveil_version', openveil_version)
