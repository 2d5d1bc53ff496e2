// Tiny random models and adapters made by hand, and an engine whose records are kept. No Qt.
#pragma once

#include "core/engine/cuda_backend.h"
#include "core/engine/engine.h"
#include "core/tokenizer/tokenizer.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <span>

namespace spartan::test {

using Random = std::mt19937_64;

inline int64_t pick(Random& random, int64_t low, int64_t high) {  // both included
    return low + int64_t(random() % uint64_t(high - low + 1));
}
inline float uniform(Random& random, float size) { return size * (float(random() % 20001) / 10000.f - 1.f); }
inline std::vector<float> uniform_vector(Random& random, int64_t n, float size, float offset = 0) {
    std::vector<float> v;
    for (int64_t i = 0; i < n; ++i) v.push_back(offset + uniform(random, size));
    return v;
}

// The same values after rounding to this type: f32 leaves them as they are.
inline std::vector<float> rounded_to(DType dtype, std::vector<float> values) {
    with_type(dtype, [&]<class T>(T) {
        for (float& v : values) v = to_float(from_float<T>(v));
    });
    return values;
}

struct TinyShape {
    int64_t vocab = 260, hidden = 48, intermediate = 80, layers = 2, heads = 6, kv_heads = 2, head_dim = 8;
    int64_t max_position = 512;
    bool qkv_bias = true;
    DType rounded = DType::f32;  // what matrices are rounded to before they get the model's type
};

template <class T>
PackedMatrix<T> random_matrix(Random& random, int64_t rows, int64_t cols, DType rounded) {
    PackedMatrix<T> m(rows, cols);
    const auto values = rounded_to(rounded, uniform_vector(random, rows * cols, 2.f / std::sqrt(float(cols))));
    m.set_rows(0, rows, values.data());
    return m;
}

template <class T>
Weights<T> random_weights(Random& random, const ModelConfig& c, DType rounded) {
    Weights<T> w;
    w.embedding = random_matrix<T>(random, c.vocab_size, c.hidden_size, rounded);
    w.final_norm = uniform_vector(random, c.hidden_size, 0.2f, 1);
    w.inv_freq = rope_inv_freq(c);
    for (int64_t l = 0; l < c.num_layers; ++l) {
        LayerWeights<T> layer;
        layer.attention_norm = uniform_vector(random, c.hidden_size, 0.2f, 1);
        layer.mlp_norm = uniform_vector(random, c.hidden_size, 0.2f, 1);
        for (int p = 0; p < kNumProjections; ++p) {
            const auto projection = Projection(p);
            layer.projection[size_t(p)] =
                random_matrix<T>(random, out_features(c, projection), in_features(c, projection), rounded);
            if (c.qkv_bias && projection <= Projection::v)
                layer.bias[size_t(p)] = uniform_vector(random, out_features(c, projection), 0.3f);
        }
        w.layers.push_back(std::move(layer));
    }
    return w;
}

inline std::shared_ptr<const Model> make_model(DType dtype = DType::f32, TinyShape shape = {}, uint64_t seed = 1) {
    Random random(seed);
    auto model = std::make_shared<Model>();
    ModelConfig& c = model->info.config;
    c.vocab_size = shape.vocab;
    c.hidden_size = shape.hidden;
    c.intermediate_size = shape.intermediate;
    c.num_layers = shape.layers;
    c.num_heads = shape.heads;
    c.num_kv_heads = shape.kv_heads;
    c.head_dim = shape.head_dim;
    c.max_position = shape.max_position;
    c.qkv_bias = shape.qkv_bias;
    c.tied_embeddings = true;
    c.eos = {256};
    model->info.name = "hand-made";
    model->info.tokenizer = make_byte_tokenizer();
    model->dtype = dtype;
    with_type(dtype, [&]<class T>(T) { model->weights = random_weights<T>(random, c, shape.rounded); });
    return model;
}

// Appends values to an adapter's blob and returns their offset.
template <class T>
int64_t append(Adapter& adapter, const std::vector<float>& values) {
    const size_t begin = (adapter.blob.size() + 63) / 64 * 64;
    adapter.blob.resize(begin + values.size() * sizeof(T));
    for (size_t i = 0; i < values.size(); ++i) {
        const T v = from_float<T>(values[i]);
        std::memcpy(adapter.blob.data() + begin + i * sizeof(T), &v, sizeof v);
    }
    return int64_t(begin);
}

// A random adapter: `group` > 0 rotates (not orthogonally; the engine does not care), `rank` > 0 is low-rank; both may
// be.
struct AdapterShape {
    int64_t group = 0, rank = 0;
    bool gain = false, bias = false;
    bool tables = false;                 // the same parts for the embedding and the head
    bool copies = false, norms = false;  // replaced as a whole
    std::vector<int32_t> tokens = {};    // replaced in embedding and head
    DType rounded = DType::f32;          // as TinyShape::rounded
};

template <class T>
int64_t append_packed(Adapter& adapter, Random& random, int64_t rows, int64_t cols, DType rounded) {
    PackedMatrix<T> m(rows, cols);
    m.set_rows(0, rows, rounded_to(rounded, uniform_vector(random, rows * cols, 0.5f)).data());
    const auto offset = int64_t(adapter.blob.size() + 63) / 64 * 64;
    adapter.blob.resize(size_t(offset + m.bytes()));
    std::memcpy(adapter.blob.data() + offset, m.data(), size_t(m.bytes()));
    return offset;
}

template <class T>
TablePart make_table(Adapter& adapter, const ModelConfig& c, const AdapterShape& shape, bool is_head, Random& random) {
    TablePart table;
    AdapterPart& part = table.part;
    part.in = c.hidden_size;
    part.out = is_head ? c.vocab_size : c.hidden_size;
    if (shape.tables && shape.group > 0) {
        part.group = shape.group;
        part.rotation =
            append<T>(adapter, rounded_to(shape.rounded, uniform_vector(random, part.in * part.group, 0.8f)));
    }
    if (shape.tables && shape.rank > 0) {
        part.rank = shape.rank;
        part.scale = 0.5f;
        part.a = append<T>(
            adapter,
            rounded_to(shape.rounded, uniform_vector(random, part.rank * (is_head ? part.in : c.vocab_size), 0.3f)));
        part.b_t = append<T>(adapter, rounded_to(shape.rounded, uniform_vector(random, part.rank * part.out, 0.3f)));
    }
    if (shape.tables && shape.gain) part.gain = append<float>(adapter, uniform_vector(random, part.out, 0.3f, 1));
    if (shape.copies) table.copy = append_packed<T>(adapter, random, c.vocab_size, c.hidden_size, shape.rounded);
    table.tokens = shape.tokens;
    if (!shape.tokens.empty())
        table.token_rows =
            append_packed<T>(adapter, random, int64_t(shape.tokens.size()), c.hidden_size, shape.rounded);
    return table;
}

template <class T>
std::shared_ptr<Adapter> make_adapter_of(const Model& model, const std::string& name, AdapterShape shape,
                                         uint64_t seed) {
    Random random(seed);
    const ModelConfig& c = model.config();
    auto adapter = std::make_shared<Adapter>();
    adapter->name = name;
    adapter->kind = shape.group > 0 ? AdapterKind::boft : AdapterKind::lora;
    adapter->dtype = dtype_of<T>;
    adapter->content_hash = name + std::to_string(seed);
    for (int l = 0; l < int(c.num_layers); ++l)
        for (const Projection p : {Projection::q, Projection::v, Projection::o, Projection::down}) {
            AdapterPart part;
            part.layer = l;
            part.projection = p;
            part.in = in_features(c, p);
            part.out = out_features(c, p);
            if (shape.group > 0 && part.in % shape.group == 0) {
                part.group = shape.group;
                part.rotation =
                    append<T>(*adapter, rounded_to(shape.rounded, uniform_vector(random, part.in * part.group, 0.8f)));
            }
            if (shape.rank > 0) {
                part.rank = shape.rank;
                part.scale = 0.5f;
                part.a =
                    append<T>(*adapter, rounded_to(shape.rounded, uniform_vector(random, part.rank * part.in, 0.3f)));
                part.b_t =
                    append<T>(*adapter, rounded_to(shape.rounded, uniform_vector(random, part.rank * part.out, 0.3f)));
            }
            if (shape.gain) part.gain = append<float>(*adapter, uniform_vector(random, part.out, 0.3f, 1));
            if (shape.bias) part.bias = append<float>(*adapter, uniform_vector(random, part.out, 0.3f));
            adapter->parts.push_back(part);
        }
    if (shape.tables || shape.copies || !shape.tokens.empty()) {
        adapter->embedding = make_table<T>(*adapter, c, shape, false, random);
        adapter->head = make_table<T>(*adapter, c, shape, true, random);
    }
    if (shape.norms)
        for (int l = 0; l < int(c.num_layers); ++l)
            for (const NormRole role : {NormRole::attention, NormRole::mlp, NormRole::final})
                if (role != NormRole::final || l == 0)
                    adapter->norms.push_back({role, l, c.hidden_size,
                                              append<float>(*adapter, uniform_vector(random, c.hidden_size, 0.3f, 1))});
    return adapter;
}

inline std::shared_ptr<Adapter> make_adapter(const Model& model, const std::string& name, AdapterShape shape,
                                             uint64_t seed) {
    return with_type(model.dtype, [&]<class T>(T) { return make_adapter_of<T>(model, name, shape, seed); });
}

inline std::vector<Token> random_prompt(Random& random, int64_t length, int64_t vocab) {
    std::vector<Token> ids;
    for (int64_t i = 0; i < length; ++i) ids.push_back(Token(pick(random, 0, vocab - 1)));
    return ids;
}

inline Request make_request(std::vector<Token> prompt, AdapterId adapter, int32_t max_tokens) {
    Request r;
    r.prompt = std::move(prompt);
    r.adapter = adapter;
    r.sampling.max_tokens = max_tokens;
    r.sampling.ignore_eos = true;
    return r;
}

// Takes every record; any thread may look.
class Records {
public:
    Engine::RecordSink sink() {
        return [this](const StepRecordPtr& r) {
            std::lock_guard lock(mutex_);
            if (full_) return false;
            all_.push_back(r);
            return true;
        };
    }
    Engine::LogitsSink logits_sink(int64_t vocab) {
        return [this, vocab](RequestId id, int64_t, int64_t count, const float* logits) {
            std::lock_guard lock(mutex_);
            auto& l = logits_[id];
            l.insert(l.end(), logits, logits + count * vocab);
        };
    }
    void set_full(bool full) {
        std::lock_guard lock(mutex_);
        full_ = full;
    }
    std::vector<StepRecordPtr> all() const {
        std::lock_guard lock(mutex_);
        return all_;
    }
    std::map<RequestId, RequestRecord> finished() const {
        std::map<RequestId, RequestRecord> out;
        for (const auto& r : all())
            for (const auto& f : r->finished) out[f.id] = f;
        return out;
    }
    std::vector<float> logits(RequestId id) const {
        std::lock_guard lock(mutex_);
        const auto it = logits_.find(id);
        return it == logits_.end() ? std::vector<float>() : it->second;
    }
    void clear() {
        std::lock_guard lock(mutex_);
        all_.clear();
        logits_.clear();
    }

private:
    mutable std::mutex mutex_;
    std::vector<StepRecordPtr> all_;
    std::map<RequestId, std::vector<float>> logits_;
    bool full_ = false;
};

template <class T>
T expect(Result<T> result) {
    if (!result) {
        std::fprintf(stderr, "unexpected error: %s\n", result.error().message().c_str());
        std::abort();
    }
    return std::move(*result);
}
inline void expect(Result<void> result) {
    if (!result) {
        std::fprintf(stderr, "unexpected error: %s\n", result.error().message().c_str());
        std::abort();
    }
}

inline int64_t page_bytes(const Model& model, int32_t block_tokens) {
    return 2 * model.config().kv_size() * block_tokens * size_of(model.dtype);
}

// What the engines of these tests compute on: SPARTAN_TEST_DEVICE is the ordinal of a GPU; without it the CPU.
inline int test_device() {
    const char* ordinal = std::getenv("SPARTAN_TEST_DEVICE");
    return ordinal ? std::atoi(ordinal) : -1;
}
// Why that cannot be used; empty: it can.
inline std::string why_no_test_device() {
    if (test_device() < 0) return {};
    const auto devices = cuda_devices();
    return devices ? (*devices)[size_t(test_device())].reason : devices.error().message();
}
#define SKIP_WITHOUT_TEST_DEVICE()                                                                              \
    do {                                                                                                        \
        if (const std::string why_ = ::spartan::test::why_no_test_device(); !why_.empty()) QSKIP(why_.c_str()); \
    } while (0)
// The dtypes that the engines of these tests compute in.
inline std::vector<DType> test_dtypes() {
    std::vector<DType> dtypes = {DType::f32, DType::bf16};
    if (test_device() >= 0) dtypes.push_back(DType::f16);
    return dtypes;
}

struct TestEngine {
    Records records;
    std::unique_ptr<Engine> engine;

    explicit TestEngine(std::shared_ptr<const Model> model, EngineOptions options = small_options()) {
        const int64_t vocab = model->config().vocab_size;
        engine = expect(Engine::create(std::move(model), options, records.sink(), records.logits_sink(vocab)));
    }
    static EngineOptions small_options() {
        EngineOptions o;
        o.cuda_device = test_device();
        o.threads = 1;
        o.pool_bytes = 8 << 20;
        o.adapter_bytes = 64 << 20;
        return o;
    }
    Engine* operator->() { return engine.get(); }
    RequestId submit(Request r) { return expect(engine->submit(std::move(r))); }
    // Submits all at once (held meanwhile, so that they share batches) and waits.
    std::vector<RequestId> run(const std::vector<Request>& requests) {
        engine->hold();
        std::vector<RequestId> ids;
        for (const auto& r : requests) ids.push_back(submit(r));
        engine->release();
        if (!engine->wait_idle(120'000)) std::abort();
        return ids;
    }
    // The same one after another, each alone.
    std::vector<RequestId> run_alone(const std::vector<Request>& requests) {
        std::vector<RequestId> ids;
        for (const Request& r : requests) ids.push_back(run({r})[0]);
        return ids;
    }
    RequestRecord run_one(const Request& request) {
        const RequestId id = run({request})[0];
        return records.finished().at(id);
    }
};

// What requests that are run together come to, in their order.
struct Outcome {
    std::vector<RequestRecord> requests;
    std::vector<std::vector<Token>> tokens;
    std::vector<std::vector<float>> logits;  // of the prompts of those who want them
};
inline Outcome run_all(TestEngine& e, const std::vector<Request>& requests) {
    const auto ids = e.run(requests);
    const auto done = e.records.finished();
    Outcome out;
    for (const RequestId id : ids) {
        out.requests.push_back(done.at(id));
        out.tokens.push_back(done.at(id).output);
        out.logits.push_back(e.records.logits(id));
    }
    return out;
}

// |got - want| / |want|, Frobenius norms.
inline double relative_error(std::span<const float> got, std::span<const float> want) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < want.size(); ++i) {
        difference += std::pow(double(got[i]) - double(want[i]), 2);
        norm += std::pow(double(want[i]), 2);
    }
    return std::sqrt(difference / norm);
}

// One request's logits, alone and in another batch: the same bits on a CPU, where every kernel is batch-invariant; on a
// GPU the same up to rounding.
inline bool agree(std::span<const float> got, std::span<const float> want, DType dtype) {
    if (test_device() < 0)
        return got.size() == want.size() && std::memcmp(got.data(), want.data(), got.size_bytes()) == 0;
    return got.size() == want.size() && relative_error(got, want) < (dtype == DType::f32    ? 2e-5
                                                                     : dtype == DType::bf16 ? 2e-2
                                                                                            : 3e-3);
}
inline bool agree(const std::vector<Token>& got, const std::vector<Token>& want, DType dtype) {
    return got == want || (test_device() >= 0 && dtype != DType::f32);
}

}  // namespace spartan::test
