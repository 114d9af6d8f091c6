#!lua name=openveil
-- The one door through which consent changes (openveil, FORMATS 4). A Redis Function runs to its end before anything
-- else does, so a contact's record, the partition's epoch, the chained hash and the change stream move together.
-- Keys of partition p, all in one cluster slot: ov:{p}:meta, ov:{p}:bits, ov:{p}:changes, ov:{p}:c:<tenant>:<bucket>.
-- common/consent.c reads what is written here; common/CONSENT.md shows how to call it.

local VERSION = 1             -- of this library; CONSENT_LIBRARY_VERSION in common/consent_client.c
local SCHEMA = '1'            -- of the stored keys
local RECORD_VERSION = 1
local STREAM_LENGTH = 1000000 -- changes that the stream keeps; CONSENT_STREAM_KEEPS in common/consent_job.h
local CHANGES_MAX = 1000
local FIELDS_A_CHANGE = 5
local BITS_DEFAULT = 8
local BITS_MAX = 28
local BUCKET_CONTACTS = 64    -- buckets of a sized tenant begin half to wholly as full; Redis packs up to 128
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
    local meta = redis.call('HMGET', key, 'mode', 'epoch', 'hash', 'version')
    local part = {key = key, prefix = key:sub(1, -5), mode = mode, epoch = 0, hash = NO_HASH, bits = {}}
    part.new = not meta[1]
    if part.new then
        if redis.call('EXISTS', part.prefix .. 'changes', part.prefix .. 'bits') ~= 0 then
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
    redis.call('HSET', part.key, 'mode', part.mode, 'epoch', decimal(part.epoch), 'hash', part.hash, 'version', SCHEMA)
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

-- The bucket's key and the contact's field in it.
local function place(part, tenant, pseudonym, bits)
    local upper = tonumber(pseudonym:sub(1, BITS_MAX / 4), 16)
    local bucket = math.floor(upper / 2 ^ (BITS_MAX - bits))
    local field = pseudonym:sub(1 + 2 * math.floor(bits / 8)):gsub('%x%x', function(pair)
        return string.char(tonumber(pair, 16))
    end)
    return part.prefix .. 'c:' .. tenant .. ':' .. string.format('%x', bucket), field
end

local function unpack_record(value)
    if not value then
        return {state = 0}
    end
    if #value < 9 or value:byte(1) ~= RECORD_VERSION then
        return {unreadable = true}
    end
    local _, state, since, allowed_since, granted_since = struct.unpack('>BBHHH', value)
    return {state = state, since = since, allowed_since = allowed_since, granted_since = granted_since}
end

-- The five words of a change, checked; nil and why not.
local function read_change(args, at, today)
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
    return change
end

-- Why the record forbids the change, or nil.
local function refusal(old, change)
    if old.unreadable then
        return not leaves(change.state) and 'refused: the record was written by another version and can only be left'
            or nil
    end
    if old.state == 0 then
        return nil
    end
    if change.since < old.since then
        return 'refused: the record holds a later day'
    end
    if change.state == INFORMED and old.state ~= INFORMED then
        return 'refused: informed can follow only unknown or informed'
    end
    if not leaves(change.state) and leaves(old.state) and change.since == old.since then
        return 'refused: the contact left on that day'
    end
    return nil
end

local function pack_record(old, change)
    local allowed_since, granted_since = 0, 0
    if not leaves(change.state) then
        local was_allowed = old.state == INFORMED or old.state == GRANTED
        allowed_since = was_allowed and old.allowed_since or change.since
        if change.state == GRANTED then
            granted_since = old.state == GRANTED and old.granted_since or change.since
        end
    end
    return struct.pack('>BBHHH', RECORD_VERSION, change.state, change.since, allowed_since, granted_since)
        .. change.notice
end

-- One change: the receipt, or a string that begins with "invalid:" or "refused:".
local function apply(part, change)
    local bits = bits_of(part, change.tenant)
    local chosen = bits or BITS_DEFAULT
    local bucket, field = place(part, change.tenant, change.pseudonym, chosen)
    local value = redis.call('HGET', bucket, field)
    local old = unpack_record(value)
    local why = refusal(old, change)
    if why then
        return why
    end
    local new = pack_record(old, change)
    if new == value then
        return part.epoch
    end
    local epoch = part.epoch + 1
    local since = decimal(change.since)
    local hash = redis.sha1hex(part.hash .. ' ' .. change.tenant .. ' ' .. change.pseudonym .. ' ' .. change.name
        .. ' ' .. since .. ' ' .. change.notice)
    -- The stream first: of the writes below only this one can be refused (an entry of this epoch exists already).
    redis.call('XADD', part.prefix .. 'changes', 'MAXLEN', '~', STREAM_LENGTH, decimal(epoch) .. '-0', 't',
        change.tenant, 'p', change.pseudonym, 's', change.name, 'd', since, 'n', change.notice, 'h', hash)
    if not bits then
        redis.call('HSET', part.prefix .. 'bits', change.tenant, chosen)
        part.bits[change.tenant] = chosen
    end
    redis.call('HSET', bucket, field, new)
    part.epoch, part.hash, part.changed = epoch, hash, true
    return epoch
end

-- FCALL openveil_set 1 ov:{PARTITION}:meta MODE TODAY (TENANT PSEUDONYM STATE SINCE NOTICE)...
-- An array with, for each change, the receipt (an integer) or why not (a string).
local function openveil_set(keys, args)
    local n = (#args - 2) / FIELDS_A_CHANGE
    if #keys ~= 1 or n < 1 or n ~= math.floor(n) or n > CHANGES_MAX then
        return redis.error_reply('OVARGS one key, the mode, today and 1 to 1000 changes of 5 words are needed')
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
        local change, why = read_change(args, 3 + (i - 1) * FIELDS_A_CHANGE, today)
        if change then
            -- What went through before an unexpected error must still reach the epoch and hash below.
            ok, why = pcall(apply, part, change)
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

-- Declared as a writing function on purpose: a replica, or a primary that may not write, answers with an error, and a
-- client that asks when it connects learns that its answers could be stale.
local function openveil_version()
    return VERSION
end

redis.register_function('openveil_set', openveil_set)
redis.register_function('openveil_size_hint', openveil_size_hint)
redis.register_function('openveil_version', openveil_version)
