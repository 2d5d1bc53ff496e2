#include "app/spartan/prompts_file.h"
#include "core/base/file.h"
#include "core/base/text.h"
#include "core/run/run_files.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"

#include <algorithm>
#include <condition_variable>
#include <iostream>
#include <iterator>
#include <limits>
#include <memory>
#include <mutex>

namespace spartan {
namespace {

struct GenerateOptions {
    ModelOptions model;
    std::string prompt, prompts, use, system;
    std::vector<std::string> stop;
    bool has_prompt = false, has_system = false, chat = false, ignore_eos = false;
    int max_tokens = -1;  // -1: 200, less where the context ends
    double temperature = 0, top_p = 1;
    int top_k = 0;
};

// One answer as it grows.
class Answer {
public:
    Answer(std::shared_ptr<const Tokenizer> tokenizer, const std::vector<std::string>& stop) {
        if (tokenizer) decoder_.emplace(std::move(tokenizer));
        for (const std::string& s : stop) hold_back_ = std::max(hold_back_, s.size() - 1);
    }

    // Text that is certain now: what could still become a stop string waits, and so does all of the token that
    // completes one, until finish() knows where the text ends.
    std::string push(Token id, bool completes_stop) {
        text_ += decoder_ ? decoder_->push(id) : std::to_string(id) + " ";
        if (completes_stop) return "";
        size_t end = text_.size() > hold_back_ ? text_.size() - hold_back_ : 0;
        while (end > 0 && end < text_.size() && (uint8_t(text_[end]) & 0xc0) == 0x80) --end;
        return take(end);
    }
    std::string finish(const RequestRecord& record) {
        record_ = record;
        if (decoder_) text_ += decoder_->finish();
        if (record.visible_bytes >= 0) text_.resize(std::min(text_.size(), size_t(record.visible_bytes)));
        return take(text_.size());
    }

    bool over() const { return record_.has_value(); }
    const std::string& text() const { return text_; }
    const RequestRecord& record() const { return *record_; }

private:
    std::string take(size_t end) {
        if (end <= shown_) return "";
        std::string part = text_.substr(shown_, end - shown_);
        shown_ = end;
        return part;
    }

    std::optional<StreamingDecoder> decoder_;
    size_t hold_back_ = 0, shown_ = 0;
    std::string text_;
    std::optional<RequestRecord> record_;
};

// Prompts go in; text comes out on the recorder's thread, the first unfinished answer's as it grows.
class Generation {
public:
    Generation(const Session& session, const GlobalOptions& options, const GenerateOptions& o,
               std::vector<PromptEntry> prompts)
        : session_(session), options_(options), o_(o), prompts_(std::move(prompts)) {
        for (size_t i = 0; i < prompts_.size(); ++i) answers_.emplace_back(session.model->info.tokenizer, o.stop);
        unseen_.resize(prompts_.size());
    }

    Result<void> submit_all() {
        const std::lock_guard lock(mutex_);  // records wait until every id is known
        for (size_t i = 0; i < prompts_.size(); ++i) {
            const auto id = session_.engine->submit(make_request(prompts_[i]));
            if (!id) {
                session_.engine->cancel_all();
                Error e = id.error();
                e.file = o_.has_prompt ? "--prompt" : o_.prompts;
                e.field = o_.has_prompt ? "" : prompts_[i].place;
                return e;
            }
            index_.push_back(*id);
        }
        return {};
    }

    void hear(const std::vector<StepRecordPtr>& records) {
        const std::lock_guard lock(mutex_);
        for (const StepRecordPtr& record : records) {
            for (const StepRow& row : record->rows)
                if (const auto i = index_of(row.request); i && row.token >= 0)
                    unseen_[*i] += answers_[*i].push(row.token, row.finish == FinishReason::stop);
            for (const RequestRecord& r : record->finished)
                if (const auto i = index_of(r.id)) unseen_[*i] += answers_[*i].finish(r);
        }
        if (!options_.json) show();
    }

    int finish() {
        const std::lock_guard lock(mutex_);
        if (options_.json) print_json(json());
        std::vector<std::string> failures;
        for (size_t i = 0; i < answers_.size(); ++i)
            if (answers_[i].over() && answers_[i].record().finish == FinishReason::error)
                failures.push_back(prompts_[i].place + ": " + answers_[i].record().error);
        if (failures.empty()) return kDone;
        return report(make_error(first_of(failures)));
    }

private:
    std::optional<size_t> index_of(RequestId id) const {
        const auto it = std::lower_bound(index_.begin(), index_.end(), id);  // ids rise
        if (it == index_.end() || *it != id) return {};
        return size_t(it - index_.begin());
    }

    Request make_request(const PromptEntry& prompt) const {
        Request r;
        r.prompt = prompt.ids;
        r.adapter = prompt.adapter;
        r.sampling.temperature = float(o_.temperature);
        r.sampling.top_p = float(o_.top_p);
        r.sampling.top_k = o_.top_k;
        r.sampling.seed = options_.seed_or();
        r.sampling.ignore_eos = o_.ignore_eos;
        r.sampling.stop = o_.stop;
        const int64_t room = session_.model->config().max_position - int64_t(prompt.ids.size());
        r.sampling.max_tokens = o_.max_tokens >= 0 ? o_.max_tokens : int32_t(std::clamp<int64_t>(room, 0, 200));
        return r;
    }

    // Answers in order: one is printed while it grows, the others wait their turn.
    void show() {
        for (; at_ < answers_.size(); ++at_) {
            if (prompts_.size() > 1 && !titled_) {
                const std::string& name = prompts_[at_].adapter_name;
                print((at_ > 0 ? "\n[" : "[") + std::to_string(at_) + "] " + (name.empty() ? "base" : name) + "\n");
                titled_ = true;
            }
            print(for_output(unseen_[at_]));
            unseen_[at_].clear();
            if (!answers_[at_].over()) break;
            print("\n");
            titled_ = false;
        }
        std::fflush(stdout);
    }

    static Json ms(int64_t us) { return us < 0 ? Json(nullptr) : Json(double(us) / 1e3); }

    Json json() const {
        Json results = Json::array();
        for (size_t i = 0; i < answers_.size(); ++i) {
            const std::string& name = prompts_[i].adapter_name;
            Json one{{"adapter", name.empty() ? Json(nullptr) : Json(name)}, {"prompt_tokens", prompts_[i].ids.size()}};
            if (answers_[i].over()) {
                const RequestRecord& r = answers_[i].record();
                one["text"] = session_.model->info.tokenizer ? Json(answers_[i].text()) : Json(nullptr);
                one["ids"] = r.output;
                one["output_tokens"] = r.output_tokens;
                one["finish"] = finish_word(r.finish);
                if (!r.error.empty()) one["error"] = r.error;
                one["ttft_ms"] = ms(r.ttft_us());
                one["e2e_ms"] = ms(r.e2e_us());
            }
            results.push_back(std::move(one));
        }
        return {{"results", results}};
    }

    const Session& session_;
    const GlobalOptions& options_;
    const GenerateOptions& o_;
    std::vector<PromptEntry> prompts_;
    std::mutex mutex_;
    std::vector<Answer> answers_;
    std::vector<std::string> unseen_;  // text of each that was not printed yet
    std::vector<RequestId> index_;     // of each prompt
    size_t at_ = 0;
    bool titled_ = false;
};

std::string standard_input() { return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()}; }

Result<std::vector<PromptEntry>> typed_prompt(const Session& session, const GenerateOptions& o,
                                              std::vector<std::string>& warnings) {
    const auto& info = session.model->info;
    if (!info.tokenizer) return Error{"--prompt", "", "text", "--prompts with ids: the model has no tokenizer"};
    PromptEntry entry;
    entry.place = "--prompt";
    entry.adapter_name = o.use;
    // One adapter is loaded to be used; among several the base answers unless one is named.
    if (o.use.empty() && session.adapter_names.size() == 1) entry.adapter_name = session.adapter_names[0];
    if (o.use.empty() && session.adapter_names.size() > 1)
        warnings.push_back("several adapters and no --use NAME: the base answers");
    TRY_ASSIGN(adapter, session.find_adapter(entry.adapter_name, "--use", ""));
    entry.adapter = adapter;
    const std::string text = o.prompt == "-" ? standard_input() : o.prompt;
    TRY_VOID(check_utf8(text, o.prompt == "-" ? "standard input" : "--prompt"));
    TRY_VOID(check_utf8(o.system, "--system"));
    for (const std::string& stop : o.stop) TRY_VOID(check_utf8(stop, "--stop"));
    if (o.chat) {
        std::vector<ChatMessage> messages;
        if (o.has_system) messages.push_back({"system", o.system});
        messages.push_back({"user", text});
        if (!info.chat_template->note().empty()) warnings.push_back(info.chat_template->note());
        TRY_ASSIGN(ids, info.chat_template->encode(*info.tokenizer, messages));
        entry.ids = std::move(ids);
    } else {
        entry.ids = info.tokenizer->encode(text, true, SpecialTokens::parse);
    }
    if (entry.ids.empty()) return Error{"--prompt", "", "no tokens", "some text"};
    return std::vector<PromptEntry>{entry};
}

Result<int> generate(const GlobalOptions& options, const GenerateOptions& o, Progress& progress) {
    std::unique_ptr<Generation> generation;  // before the session: the recorder's thread uses it to the end
    TRY_ASSIGN(session, open_session(options, o.model, options.seed_or(), {}, progress));
    TRY_ASSIGN(prompts,
               o.has_prompt ? typed_prompt(session, o, session.warnings) : read_prompts_file(o.prompts, session));
    warn(session.warnings);
    generation = std::make_unique<Generation>(session, options, o, std::move(prompts));
    session.recorder->add_listener([&](const auto& records) { generation->hear(records); });
    TRY_VOID(generation->submit_all());
    while (!session.engine->wait_idle(50)) {
        if (progress.cancelled()) session.engine->cancel_all();
        if (session.engine->status().state == EngineState::failed) break;
        leave_if_silent(*session.engine);
    }
    session.recorder->flush();
    return generation->finish();
}

void check(const GenerateOptions& o) {
    if (o.has_system && !o.chat) throw CLI::ValidationError("--system", "--chat is expected with it");
    if (o.chat && !o.has_prompt) throw CLI::ValidationError("--chat", "--prompt is expected with it");
    if (!o.use.empty() && !o.has_prompt) throw CLI::ValidationError("--use", "--prompt is expected with it");
}

void add_sampling_options(CLI::App* command, GenerateOptions& o) {
    add_repeatable(command, "--stop", o.stop, "End before this text; may be repeated")->check(not_empty("some text"));
    command->add_option("--max-tokens", o.max_tokens, "Most tokens of an answer (default 200)")
        ->type_name("N")
        ->check(integer_in(0, 1 << 20));
    command->add_option("--temperature", o.temperature, "0 (the default) takes the most likely token; at most 100")
        ->type_name("T")
        ->check(number_in(0, 100, "a number from 0 to 100"));
    command->add_option("--top-p", o.top_p, "Among the most probable tokens that sum to P, above 0 (default 1: all)")
        ->type_name("P")
        ->check(number_in(std::numeric_limits<float>::min(), 1, "a number above 0, at most 1"));
    command->add_option("--top-k", o.top_k, "Among the K most probable tokens (default 0: all)")
        ->type_name("K")
        ->check(integer_in(0, 1 << 30));
    command->add_flag("--ignore-eos", o.ignore_eos, "Go on after the end-of-text token");
}

}  // namespace

void add_generate(CLI::App& app, GlobalOptions& options, Action& action) {
    CLI::App* command = add_command(
        app, "generate", "Answers to one prompt, streamed, or to many in one batch",
        {"spartan generate --model demo --chat --prompt \"What is the capital of France?\"",
         "spartan generate --model demo --adapter pirate=resources/demo/pirate --chat --prompt - < question.txt",
         "spartan generate --model FOLDER --adapter a=DIR --adapter b=DIR --prompts prompts.json --json"});
    auto o = std::make_shared<GenerateOptions>();
    add_model_option(command, o->model);
    add_adapter_option(command, o->model);
    CLI::Option* prompt = command->add_option("--prompt", o->prompt, "The text; - reads standard input");
    CLI::Option* prompts = command->add_option("--prompts", o->prompts, "A file of prompts, run together")
                               ->type_name("FILE")
                               ->check(not_empty("the path of a file"));
    prompt->excludes(prompts);
    command->add_option("--use", o->use, "The adapter that answers --prompt")
        ->type_name("NAME")
        ->check(not_empty("an adapter's name"));
    command->add_flag("--chat", o->chat, "Through the model's chat template");
    CLI::Option* system = command->add_option("--system", o->system, "System prompt of the chat");
    add_sampling_options(command, *o);
    add_json_flag(command, options);
    command->callback([&options, &action, o, prompt, prompts, system] {
        if (prompt->count() + prompts->count() == 0) throw CLI::RequiredError("--prompt or --prompts");
        o->has_prompt = prompt->count() > 0;
        o->has_system = system->count() > 0;
        check(*o);
        check_adapter_arguments("--adapter", o->model.adapters, "--use", o->use);
        action = [&options, o] { return perform([&](Progress& progress) { return generate(options, *o, progress); }); };
    });
}

}  // namespace spartan
